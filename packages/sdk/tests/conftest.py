"""A fake API for tests of the client and the command line, without network and database."""

from __future__ import annotations

import email
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

KEY = "dn_test"
NOW = "2026-11-22T03:00:00Z"


def job(**fields: Any) -> dict[str, Any]:
    """Return a job as the API answers it."""
    return {
        "id": "01900001-0000-7000-8000-000000000000",
        "organization_id": "org-1",
        "workspace_id": "ws-1",
        "status": "queued",
        "backend": "tinker",
        "trainer_type": "sft",
        "model": "Qwen/Qwen3-8B",
        "capability": {"name": "none", "version": "0.0.0"},
        "created_at": NOW,
        "config": {"dataset_ref": {"name": "support", "version": "1.0.0"}, "lora_rank": 16},
        **fields,
    }


def price(**fields: Any) -> dict[str, Any]:
    """Return an estimate as the API answers it."""
    tokens = {"prefill": 0, "cached_prefill": 0, "sample": 0, "train": 27_000_000}
    zero = dict.fromkeys(tokens, "0")
    side = {"tokens": tokens, "usd_by_kind": zero | {"train": "10.8"}, "usd": "10.8"}
    rates = {"prefill": "0.13", "cached_prefill": None, "sample": "0.4", "train": "0.4"}
    return {
        "is_exact": True,
        "rates": {"model": "Qwen/Qwen3-8B", "as_of": "2026-06", **rates},
        "tokenizer": {"is_own": True},
        "at_least": side,
        "at_most": side,
        "reason": None,
        **fields,
    }


@dataclass
class FakeApi:
    """Responds like the API, with the content that a test has put into it.

    Attributes:
        jobs: The responses to each GET of the job, in order; the last one stays.
        failures: Errors or responses for the next requests.
        chat_failures: Responses for the next chat messages.
        chat_reasoning: The parts of the reasoning of streamed ones.
        chat_end: The last line of streamed ones; the whole answer if None.
        requests: The requests so far.
        datasets: The bytes of each dataset, by name and version; those of several splits as sent.
        splits: The files of those that were sent as several, by split.
        files: The files of the job, by path.
        evaluation: The result of the job, if it is an evaluation.
        is_paid: Whether the engine charges for jobs.
        report: Fields of the preflight report that differ from the usual ones.
    """

    jobs: list[dict[str, Any]] = field(default_factory=lambda: [job()])
    failures: list[Exception | httpx2.Response] = field(default_factory=list)
    chat_failures: list[httpx2.Response] = field(default_factory=list)
    chat_reasoning: tuple[str, ...] = ()
    chat_end: dict[str, Any] | None = None
    requests: list[httpx2.Request] = field(default_factory=list)
    datasets: dict[tuple[str, str], bytes] = field(default_factory=dict)
    splits: dict[tuple[str, str], dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)
    organizations: list[str] = field(default_factory=lambda: ["main"])
    is_paid: bool = False
    report: dict[str, Any] = field(default_factory=dict)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return refuse(401, "authentication_error", "The key is not valid on this server")
        return self._answer(request, request.url.path.removeprefix("/api/v1"))

    def chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return an answer that repeats what was said last, and counts the messages."""
        said = asked["messages"]
        checkpoint = asked.get("checkpoint", "step-000010")
        return {
            "job_id": "01900001-0000-7000-8000-000000000000",
            "model": "Qwen/Qwen3-8B",
            "trained_model": self.jobs[0].get("trained_model", "Qwen/Qwen3-8B"),
            "rehearsal": self.jobs[0].get("rehearsal", False),
            "checkpoint": f"tinker://run-1/weights/{checkpoint.rpartition('/')[2]}",
            "step": 10,
            "message": {"role": "assistant", "content": f"{said[-1]['content']} {len(said)}"},
            "finish_reason": "stop" if asked["max_tokens"] > 1 else "length",
            "usage": {"prompt_tokens": 9, "sampled_tokens": 1},
        }

    def chat_response(self, asked: dict[str, Any]) -> httpx2.Response:
        """Return the answer as a whole, or in lines, word by word."""
        answer = self.chat(asked)
        if not asked["stream"]:
            return httpx2.Response(200, json=answer)
        names = ("job_id", "model", "trained_model", "rehearsal", "checkpoint", "step")
        lines: list[Any] = [{"weights": {name: answer[name] for name in names}}]
        lines += [{"reasoning": text} for text in self.chat_reasoning]
        lines += [{"content": word} for word in re.findall(r"\S+\s*", answer["message"]["content"])]
        lines += [self.chat_end or {"answer": answer}]
        return httpx2.Response(200, text="".join(json.dumps(line) + "\n" for line in lines))

    def export(self, checkpoint: str) -> dict[str, Any]:
        """Return the files of a checkpoint's folder, which a test has put there."""
        name = checkpoint.rpartition("/")[2]
        folder = f"checkpoints/{name}/"
        return {
            "job_id": "01900001-0000-7000-8000-000000000000",
            "model": "Qwen/Qwen3-8B",
            "trained_model": self.jobs[0].get("trained_model", "Qwen/Qwen3-8B"),
            "rehearsal": self.jobs[0].get("rehearsal", False),
            "checkpoint": f"tinker://run-1/weights/{name}",
            "step": 10,
            "folder": folder,
            "files": [each for each in self.stored() if each["path"].startswith("checkpoints")],
        }

    def stored(self) -> list[dict[str, Any]]:
        """Return the files of the job as the API lists them."""
        return [
            {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in self.files.items()
        ]

    @property
    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self)

    @property
    def asked(self) -> list[str]:
        """Method and path of each request."""
        return [f"{each.method} {each.url.path.removeprefix('/api/v1')}" for each in self.requests]

    def _answer(self, request: httpx2.Request, path: str) -> httpx2.Response:
        scope, _, rest = path.partition("/training/jobs")
        if path == "/user":
            user = {"id": "u-1", "username": "ada", "email_address": "ada@example.com"}
            return httpx2.Response(200, json=user)
        if path == "/user/organizations":
            return httpx2.Response(
                200,
                json=[
                    {"id": key, "key": key, "name": key, "role": "member"}
                    for key in self.organizations
                ],
            )
        if path.endswith("/ws"):
            workspace = {"id": "ws-1", "key": "default", "name": "Default", "is_default": True}
            return httpx2.Response(
                200, json=[{**workspace, "key": "x", "is_default": False}, workspace]
            )
        if path == "/training/catalog":
            engine = {"age_seconds": 1.0, "serves": [], "detail": None, "is_paid": self.is_paid}
            return httpx2.Response(200, json={"models": [], "total": 0, "engine": engine})
        if path.endswith("/training/preflight"):
            return self._preflight(request)
        if "/datasets" in path:
            return self._dataset(request, *path.partition("/datasets")[2].strip("/").split("/"))
        if scope != "/org/main/ws/default":
            return refuse(404, "not_found_error", "There is no such path")
        return self._job(request, rest)

    def _preflight(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        found = {"rows": 3, "usable": 3, "tokens": 30}
        rehearsal, name = body.get("rehearse", False), body.get("model", "Qwen/Qwen3-8B")
        fixed = {"is_paid": self.is_paid, "rehearsal": rehearsal, "config": body["config"]}
        model = {"tinker_id": name, "status": "active", "context_length": 32768}
        return httpx2.Response(
            200,
            json={
                "model": model,
                "trained_model": name,
                "report": found,
                "price": price(),
                **fixed,
                **self.report,
            },
        )

    def _job(self, request: httpx2.Request, rest: str) -> httpx2.Response:
        if rest == "" and request.method == "GET":
            wanted = dict(request.url.params)
            found = [each for each in self.jobs if _matches(each, wanted)]
            size = int(wanted.get("page_size", 20))
            page = {"items": found[:size], "total": len(found), "page": 1, "page_size": size}
            return httpx2.Response(200, json=page)
        if rest == "":
            body = json.loads(request.content)
            if not body.get("model", "Qwen/Qwen3-8B").startswith("Qwen/Qwen3-8B"):
                return refuse(
                    422,
                    "validation_error",
                    f"Unknown training base model '{body['model']}'.\n"
                    "Did you mean one of: Qwen/Qwen3-8B, Qwen/Qwen3-8B-Base?",
                    loc=["body", "model"],
                )
            return httpx2.Response(201, json={**self.jobs[0], "config": body["config"]})
        if not rest.startswith("/01900001-0000-7000-8000-000000000000"):
            return refuse(404, "not_found_error", "There is no job of this id in this workspace")
        action = rest.removeprefix("/01900001-0000-7000-8000-000000000000")
        if action in ("", "/cancel", "/retry"):
            return httpx2.Response(200, json=self.jobs.pop(0) if self.jobs[1:] else self.jobs[0])
        if action == "/chat" and self.chat_failures:
            return self.chat_failures.pop(0)
        if action == "/chat":
            return self.chat_response(json.loads(request.content))
        if action == "/evaluation":
            return httpx2.Response(200, json=self.evaluation)
        if action == "/logs":
            return httpx2.Response(200, json={"items": self.logs})
        if action == "/rollouts":
            return httpx2.Response(200, json=self.rollouts)
        if action == "/artifacts":
            return httpx2.Response(200, json={"artifacts": self.artifacts})
        if action == "/checkpoints":
            return httpx2.Response(200, json={"items": []})
        if action == "/files":
            return httpx2.Response(200, json={"items": self.stored()})
        if action == "/checkpoints/adapter":
            return httpx2.Response(200, json=self.export(json.loads(request.content)["checkpoint"]))
        return httpx2.Response(200, content=self.files[action.removeprefix("/files/")])

    def _dataset(self, request: httpx2.Request, name: str, *rest: str) -> httpx2.Response:
        if request.method == "PUT":
            if request.headers["content-type"].startswith("multipart/form-data"):
                self.splits[name, rest[0]] = parts = _parts(request)
                return httpx2.Response(201, json=_described(name, rest[0], request.content, parts))
            stored = self.datasets.setdefault((name, rest[0]), request.content)
            if stored != request.content:
                return refuse(
                    409, "conflict_error", f"Dataset `{name}@{rest[0]}` exists with other content"
                )
            return httpx2.Response(201, json=_described(name, rest[0], stored))
        if rest[1:] == ("content",):
            split = request.url.params.get("split")
            held = self.splits.get((name, rest[0]), {})
            return httpx2.Response(
                200, content=held[split][1] if split else self.datasets[name, rest[0]]
            )
        found = [
            _described(*ref, data) for ref, data in self.datasets.items() if name in ("", ref[0])
        ]
        if rest:
            found = [each for each in found if each["version"] == rest[0]]
        if name and not found:
            return refuse(
                404, "not_found_error", f"There is no dataset `{'@'.join((name, *rest))}`"
            )
        if not name:
            page = {"items": found, "total": len(found), "page": 1, "page_size": 20}
            return httpx2.Response(200, json=page)
        return httpx2.Response(200, json=found[0] if rest else {"name": name, "versions": found})


def _matches(job: dict[str, Any], wanted: dict[str, str]) -> bool:
    """Tell whether the API would list JOB for these filters."""
    return (
        job["id"].startswith(wanted.get("id_prefix", ""))
        and wanted.get("name", job.get("name")) == job.get("name")
        and wanted.get("username", "ada") == "ada"
        and wanted.get("tag") in (None, *job.get("tags", []))
    )


def _parts(request: httpx2.Request) -> dict[str, tuple[str, bytes]]:
    """Return the files of a form: what each is called, and its bytes."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = email.message_from_bytes(head + request.content)
    return {
        str(part.get_param("name", header="content-disposition")): (
            str(part.get_filename()),
            part.get_payload(decode=True),
        )
        for part in form.get_payload()
    }


def _described(
    name: str, version: str, data: bytes, parts: dict[str, tuple[str, bytes]] | None = None
) -> dict[str, Any]:
    splits = [
        {
            "name": split,
            "format": file.rpartition(".")[2],
            "rows": len(content.splitlines()),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "content_bytes": len(content),
            "content_sha256": hashlib.sha256(content).hexdigest(),
        }
        for split, (file, content) in (parts or {"train": ("rows.jsonl", data)}).items()
    ]
    formats = {split["format"] for split in splits}
    return {
        "name": name,
        "version": version,
        "format": formats.pop() if len(formats) == 1 else "mixed",
        "rows": sum(split["rows"] for split in splits),
        "bytes": sum(split["bytes"] for split in splits),
        "sha256": hashlib.sha256(data).hexdigest(),
        "splits": splits,
        "created_at": NOW,
        "created_by": None,
    }


def refuse(
    status: int, kind: str, detail: str, *, loc: list[str] | None = None, **headers: str
) -> httpx2.Response:
    """Return a refusal in the documented envelope."""
    errors = [{"loc": loc, "msg": detail, "type": "value_error"}] if loc else None
    body = {"code": status, "type": kind, "detail": detail, "errors": errors}
    return httpx2.Response(status, json=body, headers=headers)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def make_job() -> Callable[..., dict[str, Any]]:
    return job


@pytest.fixture
def make_price() -> Callable[..., dict[str, Any]]:
    return price


@pytest.fixture
def make_refusal() -> Callable[..., httpx2.Response]:
    return refuse


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each test an environment without servers, keys and profiles, and a folder of its own."""
    for name in ("SERVER", "API_KEY", "ORGANIZATION", "WORKSPACE", "PROJECT"):
        monkeypatch.delenv(f"DREADNODE_{name}", raising=False)
    for name in ("TINKER_BASE_URL", "TINKER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DREADNODE_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
