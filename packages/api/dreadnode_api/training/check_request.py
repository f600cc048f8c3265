"""The request for a check of a job's data, and the key under which its result is stored."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from dreadnode_api.training.data import JobData

RUNTIME_DISTRIBUTION = "dreadnode-training-runtime"
IRRELEVANT = frozenset(
    {
        *("learning_rate", "learning_rate_schedule", "weight_decay", "grad_clip_norm"),
        *("adam_beta1", "adam_beta2", "adam_eps", "lora_rank", "from_adapter"),
        *("train_mlp", "train_attn", "train_unembed"),
        *("checkpoint_interval", "track_project", "max_cost_usd"),
        *("temperature", "scale_advantages", "weight_sync_interval"),
    }
)
"""Settings that change nothing in a check. Any other one, also a new one, is part of the key."""
ORDER = frozenset({"seed", "shuffle"})
"""Settings that decide which rows a job uses that ends within an epoch; else it uses each row."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
CUSTOM_CODE = "python_v1"
"""The reward and the environment that run a user's own code."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """A check of a job's data.

    Attributes:
        org_id: the organization that owns the data; no result is shared with another one.
        payload: what the runtime process reads.
        key: equal for checks that have the same result.
        runs_custom_code: whether the check runs a user's own code.
    """

    org_id: str
    payload: Mapping[str, Any]
    key: str
    runs_custom_code: bool

    def to_json(self) -> dict[str, Any]:
        """Return the request in a form that JSON can hold."""
        return {**asdict(self), "payload": dict(self.payload)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the request that `to_json` has returned."""
        return cls(**value)


def check_request(
    org_id: str,
    data: JobData,
    *,
    model: str,
    rehearsal: bool,
    trained_model: str,
    tokenizer: str | None,
    trainer_type: str,
    config: Mapping[str, Any],
    show: int | None = None,
    formats: Sequence[Mapping[str, Any]] = (),
) -> CheckRequest:
    """Return the check of a job with resolved settings, which returns the row SHOW as text.

    FORMATS has the chat format of each model of an evaluation.
    """
    payload = {
        "model": model,
        "rehearsal": rehearsal,
        "trained_model": trained_model,
        "tokenizer": tokenizer,
        "trainer_type": trainer_type,
        "config": dict(config),
        "datasets": data.files,
        **({} if show is None else {"show": show}),
        **({"formats": list(formats)} if formats else {}),
    }
    return CheckRequest(org_id, payload, _key(org_id, payload, data), _runs_custom_code(config))


def _key(org_id: str, payload: Mapping[str, Any], data: JobData) -> str:
    config = payload["config"]
    ignored = IRRELEVANT
    if config.get("steps") is None:
        ignored |= ORDER
    if payload["trainer_type"] == "eval":
        # Its price depends on all settings.
        ignored = frozenset()
    relevant = {
        **payload,
        "config": {name: value for name, value in config.items() if name not in ignored},
        "datasets": [(source["role"], source["sha256"]) for source in data.sources],
        "org_id": org_id,
        "tokenizer_files": _fingerprint(payload["tokenizer"]),
        "chosen_tokenizer_files": _named_files(config.get("tokenizer")),
        "runtime": _runtime_version(),
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _fingerprint(tokenizer: str | None) -> list[tuple[str, int, int]]:
    """Return the names, sizes and times of a model folder's small files, which may be edited."""
    if tokenizer is None or not Path(tokenizer).is_dir():
        return []
    files = [
        each for each in sorted(Path(tokenizer).iterdir()) if each.suffix in (".json", ".jinja")
    ]
    return [(each.name, (at := each.stat()).st_size, at.st_mtime_ns) for each in files]


def _named_files(folder: str | None) -> list[tuple[str, int, int]]:
    """Return sizes and times of the files of a tokenizer that a job names, as far as they exist."""
    found = []
    for name in TOKENIZER_FILES if folder else ():
        with suppress(OSError, ValueError):
            at = (Path(str(folder)) / name).stat()
            found.append((name, at.st_size, at.st_mtime_ns))
    return found


def _runtime_version() -> str:
    try:
        return version(RUNTIME_DISTRIBUTION)
    except PackageNotFoundError:
        return ""


def _runs_custom_code(config: Mapping[str, Any]) -> bool:
    # Anywhere in them, because a reward may combine others.
    text = json.dumps([config.get("reward_recipe"), config.get("environment")])
    return f'"{CUSTOM_CODE}"' in text
