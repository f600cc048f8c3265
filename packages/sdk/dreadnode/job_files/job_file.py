"""A training job as a TOML file: read, changed, and checked before anything is sent.

The file has the form of the request: settings of the job at the top, those of training under
`config`. A dataset, a capability, a reward and an environment may be one string, as on the command
line. Paths are relative to the folder of the file.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dreadnode.errors import InputError, UnusableFile, reason_of
from dreadnode.lazy_types import evaluations, jobs, rl, wire

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from dreadnode.http.references import AnyJobRequest

Document = dict[str, Any]
Store = Callable[[Path], "wire.DatasetRef"]
"""Uploads the file or folder at a path as a dataset, and returns its reference."""

REFS = ("dataset_ref", "prompt_dataset_ref", "eval_dataset_ref")
RECIPES = ("reward_recipe", "environment")
TRAJECTORIES = "trajectory_dataset_refs"
TOKENIZER = "tokenizer"
FROM_ADAPTER = "from_adapter"
_UNSTORED = {"name": "unstored", "version": "0"}


def read(path: Path) -> Document:
    """Return the document in the job file at PATH.

    Raises:
        UnusableFile: It cannot be read, or is not TOML; the sentence names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path} is not UTF-8; save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UnusableFile(f"{path} is not TOML: {str(error).rstrip('.')}") from error


def changed(document: Document, set_: Sequence[str] = (), unset: Sequence[str] = ()) -> Document:
    """Return DOCUMENT without the settings in UNSET and with those in SET_.

    Args:
        document: What a job file says.
        set_: Each PATH=VALUE, such as `config.steps=20`; a value that is not TOML is text.
        unset: Each a path.

    Raises:
        InputError: A path leads nowhere.
    """
    copy = deepcopy(document)
    for path in unset:
        table, key = _table(copy, path, "--unset")
        if key not in table:
            raise InputError(f"`--unset {path}`: the job does not set `{path}`")
        del table[key]
    for each in set_:
        path, equals, value = each.partition("=")
        if not equals:
            raise InputError(
                f"`--set {each}`: write PATH=VALUE, for example `config.learning_rate=2e-4`"
            )
        table, key = _table(copy, path.strip(), "--set")
        table[key] = _value(value)
    return copy


def _table(document: Document, path: str, flag: str) -> tuple[Document, str]:
    *tables, key = path.split(".")
    found = document
    for depth, name in enumerate(tables, 1):
        found = found.setdefault(name, {})
        if not isinstance(found, dict):
            above = ".".join(tables[:depth])
            raise InputError(f"`{flag} {path}`: `{above}` is a single value, not a table")
    return found, key


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


@dataclass(frozen=True)
class JobFile:
    """A job that passed every check that needs no server.

    Attributes:
        document: Its settings, in the form of the request; what is still to be stored has a
            placeholder.
        files: Paths that are to be stored first, each with where it is named in `config`.
    """

    document: Document
    files: Mapping[tuple[str | int, ...], Path]

    def request(self, store: Store) -> AnyJobRequest:
        """Upload the files that the job names, and return the request that creates it."""
        stored: dict[Path, Any] = {}
        for place, path in self.files.items():
            if path not in stored:
                ref = store(path)
                stored[path] = {"name": ref.name, "version": ref.version}
            found: Any = self.document["config"]
            for part in place[:-1]:
                found = found[part]
            found[place[-1]] = stored[path]
        request: AnyJobRequest = _kind(self.document).model_validate_json(
            json.dumps(self.document), strict=True
        )
        return request


def parse(document: Document, where: str, folder: Path) -> JobFile:
    """Return the job that DOCUMENT describes.

    Args:
        document: What a job file says.
        where: What to call it in a refusal.
        folder: Where relative paths begin.

    Raises:
        InputError: A setting is unknown or of the wrong kind, a line for each; or a dataset's name
            is none.
        UnusableFile: A file with Python code cannot be read.
    """
    from pydantic import ValidationError

    if odd := list(_no_json(document, ())):
        raise InputError("\n".join(f"{where}: {each}" for each in odd))
    document = deepcopy(document)
    kind = _kind(document, where)
    config = document.get("config")
    files: dict[tuple[str | int, ...], Path] = {}
    if isinstance(config, dict):
        files = _expand(config, where, folder)
    if isinstance(ref := document.get("capability_ref"), str):
        from dreadnode.capabilities import parse_ref

        document["capability_ref"] = dict(zip(("name", "version"), parse_ref(ref), strict=True))
    try:
        kind.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise InputError("\n".join(_problems(error, kind, where))) from None
    return JobFile(document, files)


def _no_json(value: Any, place: tuple[str | int, ...]) -> Iterator[str]:
    """Yield a problem for each value that TOML can hold and JSON cannot."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _no_json(each, (*place, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _no_json(each, (*place, number))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"`{_path(place)}` must be a finite number, not {value}"
    elif not isinstance(value, str | int | float):
        yield f"`{_path(place)}` must not be a date or a time; put it into quotes"


def _kind(document: Document, where: str = "the job") -> type[AnyJobRequest]:
    given = document.get("trainer_type")
    kinds: dict[object, type[AnyJobRequest]] = {
        "sft": jobs.SftRequest,
        "rl": rl.RlRequest,
        "eval": evaluations.EvalRequest,
    }
    if not isinstance(given, str) or given not in kinds:
        raise InputError(f'{where}: `trainer_type` must be "sft", "rl" or "eval"')
    return kinds[given]


def _expand(config: Document, where: str, folder: Path) -> dict[tuple[str | int, ...], Path]:
    """Replace the short forms in CONFIG, and return the paths of files to upload."""
    files: dict[tuple[str | int, ...], Path] = {}
    places: list[tuple[Any, tuple[str | int, ...]]] = [(config, (name,)) for name in REFS]
    if isinstance(listed := config.get(TRAJECTORIES), list):
        places += [(listed, (TRAJECTORIES, number)) for number in range(len(listed))]
    for table, place in places:
        key: Any = place[-1]
        text = table.get(key) if isinstance(table, dict) else table[key]
        if not isinstance(text, str):
            continue
        ref = _ref(text, f"{where}: `{_path(('config', *place))}`", folder)
        if isinstance(ref, Path):
            files[place] = ref
        table[key] = _UNSTORED if isinstance(ref, Path) else ref
    if isinstance(tokenizer := config.get(TOKENIZER), str):
        config[TOKENIZER] = absolute(tokenizer, folder)
    if isinstance(start := config.get(FROM_ADAPTER), str) and start:
        config[FROM_ADAPTER] = _adapter(start, folder)
    for name in RECIPES:
        recipe = config.get(name)
        if isinstance(recipe, str):
            config[name] = recipe = {"name": recipe}
        if isinstance(recipe, dict) and str(recipe.get("name")).endswith(".py"):
            params = recipe.setdefault("params", {})
            if isinstance(params, dict):
                params["source"] = _source(folder / recipe["name"])
                params.setdefault("filename", Path(recipe["name"]).name)
                recipe["name"] = "python_v1"
    return files


def absolute(path: str, folder: Path) -> str:
    """Return PATH, which is relative to FOLDER or the user's home, as the server takes it."""
    return str((folder / Path(path).expanduser()).resolve()) if path else path


def _adapter(start: str, folder: Path) -> str:
    """Return what a job starts from; the path of an adapter's folder becomes absolute."""
    from dreadnode.http.adapter_files import local_adapter

    path = folder / Path(start).expanduser()
    if path.is_dir() or start.startswith(("./", "../", "~")):
        start = str(path.resolve())
    local_adapter(start)
    return start


def _ref(text: str, place: str, folder: Path) -> dict[str, str] | Path:
    """Return the dataset that TEXT names, or the path of a file or folder."""
    from dreadnode.datasets.jsonl import is_path, parse_ref

    path = folder / text
    if is_path(text, folder):
        if not path.exists():
            raise UnusableFile(f"{place}: there is no file {path}")
        return path
    try:
        name, version = parse_ref(text)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return {"name": name, "version": version}


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UnusableFile(f"{file} cannot be read: {reason}") from None


def _path(place: Sequence[str | int]) -> str:
    """Return PLACE as a path, for example `config.stop[1]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _problems(error: ValidationError, kind: type[BaseModel], where: str) -> Iterator[str]:
    for each in error.errors(include_url=False):
        path = _path(each["loc"])
        if each["type"] == "extra_forbidden":
            near = _near(each["loc"], kind)
            hint = f"did you mean `{near}`?" if near else "remove it, or correct its name"
            yield f"{where}: unknown setting `{path}`; {hint}"
        elif each["type"] == "missing":
            yield f"{where}: `{path}` is missing"
        else:
            yield f"{where}: `{path}` must be {must(each)}, not {shown(each['input'])}"


def _near(place: Sequence[str | int], kind: type[BaseModel]) -> str | None:
    """Return the path of the most similar setting, if one is similar enough."""
    name = str(place[-1])
    known = {path: path.rpartition(".")[2] for path in _paths(kind)}
    table = _path(place[:-1])
    beside = {path: key for path, key in known.items() if path.rpartition(".")[0] == table}
    for some in (beside, known):
        match = get_close_matches(name, some.values(), n=1, cutoff=0.7)
        if match:
            return next(path for path, key in some.items() if key == match[0])
    return None


def _paths(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield the path of every setting of KIND, including those of its tables."""
    for name, field in kind.model_fields.items():
        yield f"{above}{name}"
        for below in (field.annotation, *get_args(field.annotation)):
            if hasattr(below, "model_fields"):
                yield from _paths(below, f"{above}{name}.")


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def must(error: ErrorDetails) -> str:
    """Return what a setting must be, from pydantic's ERROR."""
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return f"one of {context['expected']}"
        case "greater_than":
            return f"above {_number(context['gt'])}"
        case "greater_than_equal":
            return f"at least {_number(context['ge'])}"
        case "less_than":
            return f"below {_number(context['lt'])}"
        case "string_too_long":
            return f"a string of at most {context['max_length']:,} characters"
        case "too_long":
            return f"a list of at most {context['max_length']:,} values"
        case "less_than_equal":
            return f"at most {_number(context['le'])}"
        case other:
            return _KINDS.get(other, error["msg"])


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:,}"


def shown(value: Any) -> str:
    """Return VALUE as JSON, shortened if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
