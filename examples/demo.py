"""One job on this machine from the catalog to its adapter, in a few minutes: `make demo`.

It starts a server of its own, on free ports and with a data directory of its own, and leaves
nothing running. Every step is a real command; the lines that begin with `$` can be typed against
any server.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / ".demo"
DN = Path(sys.executable).with_name("dn")
QUESTION = "When does the museum open?"
MODEL = "Qwen/Qwen3-8B"
READY = "ready on"
READY_WITHIN = 300.0  # seconds; the first start converts the stand-in's weights
STOP_WITHIN = 60.0  # seconds


def main() -> int:
    """Run every step; return 0 when each did what it should."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    try:
        with server() as engine_url:
            journey(engine_url)
    except KeyboardInterrupt:
        say("\nInterrupted; everything that the demo started has been stopped.")
        return 130
    except subprocess.CalledProcessError as error:
        say(f"\nThe demo stopped: `{' '.join(error.cmd)}` ended with exit code {error.returncode}")
        return 1
    say(f"\nThe adapter is yours: {relative(WORK / 'adapter')}. The server has been stopped.")
    return 0


def journey(engine_url: str) -> None:
    """Catalog, refusal, dataset, rehearsal, adapter."""
    heading("1. What can be trained")
    dn("train", "catalog", "--limit", "8")

    heading("2. A typo is refused before anything is started")
    dn(
        *("train", "sft", "--model", "meta-llama/Llama-3.1-8B-Instruc"),
        *("--dataset", "harbour-desk@1.0.0"),
        expect=1,
    )

    heading("3. A dataset: 72 questions to a ferry's harbour desk, answered in its own manner")
    dn("dataset", "push", relative(HERE / "harbour-desk.jsonl"), "harbour-desk@1.0.0")

    heading("4. What the stand-in says before training")
    stand_in, tokenizer = stand_in_model()
    ask("--base-model", stand_in, tokenizer=tokenizer, engine_url=engine_url)

    heading(f"5. A rehearsal of {MODEL}: the same data, config and loop, on a small real model")
    dn(
        *("train", "sft", "--model", MODEL, "--dataset", "harbour-desk@1.0.0", "--rehearse"),
        *("--epochs", "4", "--batch-size", "8", "--learning-rate", "5e-4"),
        *("--checkpoint-interval", "18", "--name", "harbour desk", "--wait"),
    )
    job = json.loads(dn_output("train", "list", "--json"))[0]["id"]
    show_loss(json.loads(dn_output("train", "get", job, "--json"))["metrics"])

    heading("6. What it says after training")
    artifacts = json.loads(dn_output("train", "artifacts", job, "--json"))
    checkpoint = artifacts["artifacts"]["sampler_checkpoint"]
    ask("--checkpoint", checkpoint, tokenizer=tokenizer, engine_url=engine_url)

    heading("7. The adapter, loaded by plain PEFT in a process of its own")
    adapter = WORK / "adapter"
    dn("train", "download", job, "--to", relative(adapter))
    for file in sorted(path for path in adapter.rglob("*") if path.is_file()):
        say(f"  {file.relative_to(adapter)}  {file.stat().st_size:,} bytes")
    folder = next(path.parent for path in adapter.rglob("adapter_config.json"))
    run(
        *(sys.executable, HERE / "load_adapter.py", "--base", tokenizer),
        *("--adapter", folder, QUESTION),
        shown=f"python examples/load_adapter.py --base STAND-IN --adapter {relative(folder)} …",
    )


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start `dn serve` on free ports, point this process's environment at it, and stop it after.

    Yields:
        The engine's address.
    """
    port, engine_port = free_port(), free_port()
    for name in [name for name in os.environ if name.startswith(("DREADNODE_", "TINKER_"))]:
        del os.environ[name]  # a person's own server is none of the demo's business
    os.environ |= {
        # What libraries say to their developers would drown what the demo shows.
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
        "DREADNODE_CONFIG_DIR": str(WORK / "config"),
        "DREADNODE_ENGINE_KEY": f"tml-{secrets.token_urlsafe(32)}",
        "HF_HUB_OFFLINE": "1",
        "TINKER_TELEMETRY": "0",
    }
    say(f"Starting a server in {relative(WORK)} …")
    log = WORK / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(DN, "serve", "--port", str(port), "--engine-port", str(engine_port)),
                *("--data-dir", WORK / "data"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the demo, which stops the server in order
        )
    try:
        wait_until_ready(process, log)
        yield f"http://127.0.0.1:{engine_port}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when the server says that it is ready; end the demo when it does not."""
    deadline = time.monotonic() + READY_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        if READY in log.read_text():
            return
        time.sleep(0.2)
    say(log.read_text())
    raise SystemExit("The server did not start; its last words are above.")


def stand_in_model() -> tuple[str, str]:
    """Return the stand-in's name on the engine and the folder that holds it."""
    answer = dn_output("engine", "models", "--data-dir", str(WORK / "data"), "--json")
    stand_in = next(model for model in json.loads(answer)["models"] if model["stand_in"])
    return stand_in["model_name"], stand_in["tokenizer_id"]


def ask(*model: str, tokenizer: str, engine_url: str) -> None:
    """Ask the demo's question of a model on the engine."""
    os.environ["TINKER_BASE_URL"] = engine_url
    os.environ["TINKER_API_KEY"] = os.environ["DREADNODE_ENGINE_KEY"]
    run(
        *(sys.executable, HERE / "ask.py", "--tokenizer", tokenizer, *model, QUESTION),
        shown=f'python examples/ask.py {" ".join(model)} "{QUESTION}"',
    )


def show_loss(metrics: dict[str, list[float]]) -> None:
    """Show the loss as one line of blocks, with its first and last value."""
    losses = metrics["train/loss"]
    low, high = min(losses), max(losses)
    blocks = "▁▂▃▄▅▆▇█"
    line = "".join(
        blocks[round((loss - low) / ((high - low) or 1) * (len(blocks) - 1))] for loss in losses
    )
    say(f"\nloss  {losses[0]:.3f} {line} {losses[-1]:.3f}  ({len(losses)} steps)")


def dn(*arguments: str, expect: int = 0) -> None:
    """Run a `dn` command as a person would, and show it."""
    run(DN, *arguments, shown=f"dn {' '.join(quoted(word) for word in arguments)}", expect=expect)


def dn_output(*arguments: str) -> str:
    """Return what a `dn` command prints."""
    return subprocess.run([DN, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def run(*command: str | Path, shown: str, expect: int = 0) -> None:
    """Show a command, run it, and hold it to its exit code."""
    say(f"$ {shown}")
    code = subprocess.run(command, check=False).returncode
    if code != expect:
        raise subprocess.CalledProcessError(code, [str(word) for word in command])


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def quoted(word: str) -> str:
    """Return WORD as one would type it."""
    return f'"{word}"' if " " in word else word


def relative(path: Path) -> str:
    """Return PATH as seen from the current folder, where that is shorter."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def heading(text: str) -> None:
    """Announce a step."""
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def say(text: str) -> None:
    """Print a line at once, so that it stands before what a command prints."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
