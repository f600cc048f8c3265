"""A trainer and an API that a loop can be tried against: small, honest, and all their own."""

import asyncio
import functools
import hashlib
import importlib.util
import json
import math
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from dreadnode_api.training.defaults import KINDS, complete
from dreadnode_runtime.backend.trainer import Export, Saved
from dreadnode_runtime.data.renderers.formats import formats_of, names_of
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class FakeTrainer:
    """Learns nothing but remembers everything: its loss halves with each step."""

    def __init__(self, tokenizer: str | None = None) -> None:
        self.resumed = False
        self.tokenizer = tokenizer
        self.calls: list[tuple[str, Any]] = []
        self.steps = 0
        self.loss_of: Callable[[int, Example], float] = lambda step, _: 4.0 * 0.5**step
        self.eval_loss_of: Callable[[int], float] = lambda step: 4.0 * 0.5**step
        self.before_answer: Callable[[int], Awaitable[None]] | None = None
        self.opened_with: dict[str, Any] = {}
        self.gone = False

    @asynccontextmanager
    async def open(self, **settings: Any) -> Any:
        self.opened_with = settings
        if settings["resume"] is not None and not self.gone:
            self.resumed = True
            self.steps = int(settings["resume"].rpartition("-")[2])
        yield self

    def submit(
        self, batches: Sequence[Sequence[Example]], learning_rate: float
    ) -> Awaitable[list[float]]:
        self.calls.append(("submit", ([list(b) for b in batches], learning_rate)))
        step, self.steps = self.steps, self.steps + 1

        async def answer() -> list[float]:
            if self.before_answer is not None:
                await self.before_answer(step)
            return [
                self.loss_of(step, e) * int(e.trained.sum()) for batch in batches for e in batch
            ]

        return answer()

    def evaluate(self, batch: Sequence[Example]) -> Awaitable[list[float]]:
        self.calls.append(("evaluate", list(batch)))
        step = self.steps

        async def answer() -> list[float]:
            return [self.eval_loss_of(step) * int(e.trained.sum()) for e in batch]

        return answer()

    def save(self, name: str) -> Awaitable[Saved]:
        self.calls.append(("save", name))

        async def answer() -> Saved:
            return Saved(f"tinker://run:train:0/weights/{name}", 4096)

        return answer()

    async def export(self, name: str, folder: Path, checkpoint: str | None = None) -> Export:
        state = Saved(checkpoint) if checkpoint else await self.save(name)
        folder.mkdir(exist_ok=True)  # noqa: ASYNC240
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        return Export(state, Saved(f"tinker://run:train:0/sampler_weights/{name}", 1024), folder)

    @property
    def names(self) -> list[str]:
        """What was asked for, in order."""
        return [f"save {what}" if name == "save" else name for name, what in self.calls]


class FakeApi:
    """Holds one job and its datasets, applies progress as the real API does, and can be away."""

    def __init__(self) -> None:
        self.token = "dnj_secret"
        self.datasets: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.away_for = 0
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self.job: dict[str, Any] = {
            "id": "job-1",
            "trainer_type": "sft",
            "model": "Qwen/Qwen3-8B",
            "rehearsal": True,
            "trained_model": "stand-in/tiny",
            "status": "running",
            "config": {"dataset_ref": {"name": "talk", "version": "1.0.0"}},
            "metrics": {},
            "artifacts": {},
            "cancel_requested_at": None,
        }
        base = "/api/v1/org/main"
        job = f"{base}/ws/default/training/jobs/job-1"
        data = f"{base}/datasets/{{name}}/{{version}}"
        self.app = Starlette(
            routes=[
                Route(job, self._get_job),
                Route(f"{job}/progress", self._progress, methods=["POST"]),
                Route(f"{job}/files", self._list_files),
                Route(f"{job}/files/{{path:path}}", self._put_file, methods=["PUT"]),
                Route(f"{job}/files/{{path:path}}", self._get_file),
                Route(data, self._dataset),
                Route(f"{data}/content", self._content),
            ]
        )

    def put(self, rows: Sequence[Any], name: str = "talk@1.0.0", split: str = "train") -> None:
        """Hold ROWS as a split of a dataset."""
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self.datasets[name if split == "train" else f"{name}/{split}"] = content

    def forget(self) -> None:
        """Be as if the job had never run."""
        self.job |= {"metrics": {}, "artifacts": {}}
        self.events.clear()

    def told(self, event_type: str) -> list[dict[str, Any]]:
        """Return the events of one type, in order."""
        return [event for event in self.events if event["event_type"] == event_type]

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"detail": "no"}, 401)
        if self.away_for > 0:
            self.away_for -= 1
            return JSONResponse({"detail": "away"}, 503)
        return None

    async def _get_job(self, request: Request) -> Response:
        # As the API sends it: with every default.
        config = {"max_sequence_length": 2048, **self.job["config"]}
        if self.job["trainer_type"] in KINDS:
            config = complete(self.job["trainer_type"], config)
        return self._refused(request) or JSONResponse({**self.job, "config": config})

    async def _progress(self, request: Request) -> Response:
        body = await request.body()
        if refused := self._refused(request):
            return refused
        event = json.loads(body)
        known = {(old["attempt"], old["seq"]) for old in self.events}
        if (event["attempt"], event["seq"]) not in known:
            self.events.append(event)
            if event["event_type"] == "training_end" and event["metrics"]:
                self.job["metrics"] = {}
            for key, value in event["metrics"].items():
                stored = self.job["metrics"].get(key, [])
                self.job["metrics"][key] = [*stored, *value] if isinstance(value, list) else value
            self.job["artifacts"] |= event.get("artifacts") or {}
            self.on_event(event)
        return JSONResponse(self.job)

    async def _put_file(self, request: Request) -> Response:
        body = await request.body()
        if refused := self._refused(request):
            return refused
        self.files[request.path_params["path"]] = body
        return JSONResponse({"path": request.path_params["path"]}, 201)

    async def _list_files(self, request: Request) -> Response:
        items = [{"path": path} for path in self.files]
        return self._refused(request) or JSONResponse({"items": items})

    async def _get_file(self, request: Request) -> Response:
        content = self.files[request.path_params["path"]]
        return self._refused(request) or Response(content)

    def _splits(self, request: Request) -> dict[str, bytes]:
        """Return the content of each split of the dataset that is asked about."""
        name = "{name}@{version}".format(**request.path_params)
        return {
            key.partition("/")[2] or "train": content
            for key, content in self.datasets.items()
            if key.partition("/")[0] == name
        }

    async def _dataset(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        found = [
            {"name": name, "content_sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self._splits(request).items()
        ]
        if not found:
            return JSONResponse({"detail": "no such dataset"}, 404)
        return JSONResponse({"splits": found})

    async def _content(self, request: Request) -> Response:
        split = request.query_params.get("split", "train")
        return self._refused(request) or Response(self._splits(request).get(split, b""))


@pytest.fixture
def trainer(tiny_model: Path) -> FakeTrainer:
    return FakeTrainer(str(tiny_model))


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def served(api: FakeApi) -> Iterator[str]:
    """The address of the API, answering real requests."""
    config = uvicorn.Config(api.app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def example() -> Callable[..., Example]:
    """Make a sequence of LENGTH tokens of which the last ANSWER carry loss."""

    def make(row: int, length: int = 8, answer: int = 4) -> Example:
        weights = np.zeros(length, np.float32)
        weights[length - answer :] = 1 / answer
        return Example(np.arange(length, dtype=np.int32), weights, row)

    return make


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until something is so; a test that waits in vain runs into its time limit."""

    async def wait(holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def nan() -> float:
    return math.nan


class Engine:
    """A real engine in a process of its own, that serves a tiny random model."""

    KEY = "tml-master-of-the-tests"

    def __init__(self, warm_engine: Any, folder: Path, models: dict[str, Path]) -> None:
        self._warm_engine = warm_engine
        self._command = [
            *("serve", "--no-stand-in", "--no-hf-cache", "--data-dir", str(folder)),
            *("--threads", "1"),
            *(word for name, path in models.items() for word in ("--model", f"{name}={path}")),
        ]
        self.url = ""
        self.process: Any = None

    def start(self, port: int = 0) -> None:
        """Start it, and wait until it answers."""
        self.process = self._warm_engine.start(
            [*self._command, "--port", str(port)], {**os.environ, "DREADNODE_ENGINE_KEY": self.KEY}
        )
        self.url = self.process.stdout.readline().rpartition(" ")[2].strip()
        assert self.url.startswith("http"), "the engine did not start"

    def kill(self) -> int:
        """Kill it, and return the port that it had."""
        self.process.kill()
        self.process.communicate()
        return int(self.url.rpartition(":")[2])


@pytest.fixture
def make_engine(
    warm_engine: Any, tmp_path: Path, tiny_model: Path
) -> Iterator[Callable[[], Engine]]:
    """Start an engine of a test's own, that it may kill."""
    started: list[Engine] = []

    def make() -> Engine:
        started.append(Engine(warm_engine, tmp_path / "engine", {"Qwen/Qwen3-8B": tiny_model}))
        started[-1].start()
        return started[-1]

    yield make
    for each in started:
        each.kill()


@pytest.fixture(scope="session")
def engine(
    warm_engine: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Engine]:
    engine = Engine(warm_engine, tmp_path_factory.mktemp("engine"), {"Qwen/Qwen3-8B": tiny_model})
    engine.start()
    yield engine
    engine.kill()


def _tokenizers() -> Any:
    """Load scripts/fetch_tokenizers.py, which knows the real tokenizers."""
    path = Path(__file__).parents[3] / "scripts" / "fetch_tokenizers.py"
    spec = importlib.util.spec_from_file_location("fetch_tokenizers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tokenizers() -> Any:
    """The module that loads real tokenizers; `make tokenizers` fetches their files."""
    module = _tokenizers()
    if not (module.folder() / "chat_templates").is_dir():
        pytest.skip("real tokenizers are not here; `make tokenizers` fetches them")
    return module


@pytest.fixture(scope="session")
def real_tokenizer(tokenizers: Any) -> Callable[..., Any]:
    """Load a real tokenizer, with the chat template of a maker: each kind once."""
    return functools.cache(tokenizers.load)


@pytest.fixture(scope="session")
def rendering_of(tokenizers: Any, real_tokenizer: Callable[..., Any]) -> Callable[..., Rendering]:
    """Make the rendering of a catalog model with the tokenizer that stands for its own."""

    @functools.cache
    def make(model: str, template: str | None = "its own") -> Rendering:
        name, own, added = tokenizers.of_model(model)
        tokenizer = real_tokenizer(name, own if template == "its own" else template, added)
        return Rendering(formats_of(names_of(model), tokenizer, model))

    return make


def _write_narrow_model(folder: Path, tokenizers: Any, kind: Any) -> Path:
    """Write a random model of two narrow layers with a real tokenizer, and return FOLDER.

    Args:
        folder: Where to.
        tokenizers: The module that loads real tokenizers.
        kind: What it takes: vocabulary, chat template and added tokens.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name, _, added = kind
    tokenizer = tokenizers.load(*kind)
    if added:
        tokenizer.save_pretrained(folder)
    else:
        # Its files as they are: writing them again takes seconds.
        shutil.copytree(tokenizers.folder() / name, folder, dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        # Weights as small as usual let narrow layers change nothing: they would learn slowly, and
        # could not tell 100,000 tokens apart.
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=1.0)
        model.get_input_embeddings().weight.normal_(std=1.0)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_models(tokenizers: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random models that carry real tokenizers, by catalog id."""
    models = (
        *("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        *("openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3.1"),
    )
    folders = tmp_path_factory.mktemp("models")
    return {
        model: _write_narrow_model(
            folders / model.rpartition("/")[2], tokenizers, tokenizers.of_model(model)
        )
        for model in models
    }


@pytest.fixture(scope="module")
def real_engine(
    warm_engine: Any, real_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A real engine that serves the models with real tokenizers."""
    engine = Engine(warm_engine, tmp_path_factory.mktemp("real-engine"), real_models)
    engine.start()
    yield engine
    engine.kill()
