"""Write the console's pictures for the documentation, from real rehearsals on a server of its own.

It needs Debian's `chromium`. To add a picture, add its name and the function that opens its page to
`PICTURES`; the jobs of `jobs()` are there to show.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import server as servers  # noqa: E402
from tests.server import MODEL, Server  # noqa: E402

FOLDER = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 860
SUMS = [
    {"question": f"What is {a} + {b}?", "answer": str(a + b)}
    for a in range(1, 5)
    for b in range(1, 5)
]
"""Small enough that the stand-in gets some of them right, so that rewards differ."""
MARGIN = 8
PAGE_WITHIN = 300_000  # milliseconds; the machine trains meanwhile
TRIES = 60
STEPS_SHOWN = 24
"""A picture of a running job is taken after this many of its steps."""


@dataclass(frozen=True)
class Jobs:
    """The ids of the jobs that pictures show."""

    sft: str
    other: str
    rl: str


def jobs(server: Server) -> Jobs:
    """Submit two supervised rehearsals and one of reinforcement learning."""
    dn(server, "dataset", "push", str(ROOT / "examples/harbour-desk.jsonl"), "harbour-desk@1.0.0")
    sums = server.folder / "sums.jsonl"
    sums.write_text("".join(json.dumps(each) + "\n" for each in SUMS))
    dn(server, "dataset", "push", str(sums), "sums@1.0.0")
    sft = ("train", "sft", "--model", MODEL, "--dataset", "harbour-desk@1.0.0", "--rehearse")
    size = ("--epochs", "4", "--batch-size", "8", "--checkpoint-interval", "12", "--json")
    fast = (*sft, *size, "--learning-rate", "5e-4", "--name", "harbour desk")
    slow = (*sft, *size, "--learning-rate", "1e-4", "--name", "harbour desk, slower")
    rl = (
        *("train", "rl", "--model", MODEL, "--prompt-dataset", "sums@1.0.0", "--rehearse"),
        *("--reward-recipe", "gsm8k_v1", "--group-size", "4", "--max-new-tokens", "24"),
        *("--temperature", "0.7", "--steps", "3", "--num-rollouts", "8", "--name", "sums"),
        "--json",
    )
    ids = [json.loads(dn(server, *each))["id"] for each in (rl, slow, fast)]
    return Jobs(rl=ids[0], other=ids[1], sft=ids[2])


def dn(server: Server, *arguments: str) -> str:
    """Run a `dn` command and return its output; on a busy machine, the engine takes a while."""
    for _ in range(TRIES):
        said = server.dn(*arguments)
        if not (said.code and "try again" in said.out + said.err):
            break
        time.sleep(10)
    if said.code:
        raise SystemExit(f"`dn {' '.join(arguments)}` failed: {said.err}")
    return said.out


def wait(server: Server, job: str, steps: int) -> None:
    """Wait until a job has done some steps or has ended."""
    while True:
        found = json.loads(dn(server, "train", "get", job, "--json"))
        done = (found["progress"] or {}).get("step") or 0
        if done >= steps or found["status"] in ("completed", "failed", "cancelled"):
            return
        time.sleep(2)


def running_job(page: Page, address: str, made: Jobs) -> None:
    """Open a job that trains, beside one that has ended."""
    page.goto(f"{address}/jobs/{made.sft}?with={made.other}")
    page.locator("figure canvas").first.wait_for()


def rollouts(page: Page, address: str, made: Jobs) -> None:
    """Open the rollouts of the newest step."""
    page.goto(f"{address}/jobs/{made.rl}/rollouts?sort=reward")
    page.locator(".group").first.wait_for()


def catalog(page: Page, address: str, made: Jobs) -> None:
    """Open the catalog of base models."""
    page.goto(f"{address}/catalog")
    page.locator("table").first.wait_for()


def comparison(page: Page, address: str, made: Jobs) -> None:
    """Open the two supervised jobs side by side, with their charts."""
    page.goto(f"{address}/compare?job={made.sft}&job={made.other}")
    page.locator("figure canvas").first.wait_for()


PICTURES: dict[str, Callable[[Page, str, Jobs], None]] = {
    "running-job": running_job,
    "rollouts": rollouts,
    "comparison": comparison,
    "catalog": catalog,
}


def clip(page: Page) -> FloatRect:
    """Return the part of PAGE to show: it ends with the last row, chart or group that fits."""
    script = "all => all.map(each => each.getBoundingClientRect().bottom)"
    bottoms = page.locator("main tr, main figure, main .group, main .tile").evaluate_all(script)
    height = MARGIN + max(bottom for bottom in bottoms if bottom <= HEIGHT - MARGIN)
    return {"x": 0, "y": 0, "width": WIDTH, "height": height}


def take(address: str, token: str, made: Jobs, chromium: str) -> None:
    """Sign in to the server at ADDRESS and take every picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PAGE_WITHIN)
        page.goto(address)
        page.get_by_label("API token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/jobs")
        for name, show in PICTURES.items():
            show(page, f"{address}/ws/default", made)
            page.wait_for_timeout(500)  # Charts are drawn in the next frame.
            page.screenshot(path=FOLDER / f"console-{name}.png", clip=clip(page))
            print(f"wrote docs/images/console-{name}.png")
        browser.close()


def main() -> int:
    """Start a server, let it train, and take the pictures."""
    FOLDER.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        print("error: chromium is not installed; `apt-get install chromium`", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder:
        servers.READY_WITHIN = 900.0  # The first start converts the stand-in's weights.
        server = Server(Path(folder), None)
        server.start()
        try:
            made = jobs(server)
            wait(server, made.other, 10**9)
            wait(server, made.rl, 10**9)
            wait(server, made.sft, STEPS_SHOWN)
            address = f"http://127.0.0.1:{server.ports[0]}"
            token = json.loads(dn(server, "token", "create", "pictures", "--json"))["token"]
            take(address, token, made, chromium)
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
