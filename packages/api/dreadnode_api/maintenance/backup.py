"""A backup of all data of a server, made while it runs.

Blobs and checkpoints are written once and never changed, and a database refers only to files that
are written already. So the files are copied first, then each SQLite database consistently through
its backup interface, or a PostgreSQL database through `pg_dump`, and then the files that are new
since. So every file that the copied database refers to is in the backup.
"""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import make_url

from dreadnode_api.settings import Settings, SettingsError

DATABASE = "dreadnode.db"
# Logs, folders of sandboxes, locks, and files that can be created again.
LEFT_OUT = {"logs", "jobs", "models", "tmp", "serve.lock", "host.id"}
DUMP = "dreadnode.pgdump"
NOT_DUMPED = (
    "The backup is incomplete: it has no copy of the PostgreSQL database, because {why}; repair "
    "that "
    "and run the backup again"
)


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds.

    Attributes:
        vanished: files that were deleted while they were copied, as expired checkpoints are.
        note: why the copy is incomplete; None if it is complete.
    """

    target: str
    version: str
    made_at: str
    files: int
    bytes: int
    databases: list[str]
    vanished: list[str]
    note: str | None


def back_up(settings: Settings, target: Path) -> Backup:
    """Copy everything into TARGET, which appears only when it is complete.

    Raises:
        SettingsError: the target exists or cannot be written, or there is no data.
    """
    source, target = settings.data_dir.resolve(), target.absolute()
    if not source.is_dir():
        raise SettingsError(
            f"The data directory {source} does not exist; name it with `--data-dir`"
        )
    if target.exists():
        raise SettingsError(f"{target} exists already; name a folder that does not exist")
    incomplete = target.with_name(f"{target.name}.incomplete")
    if incomplete.exists():
        raise SettingsError(f"{incomplete} exists already; remove it, or name another folder")
    if target.resolve().is_relative_to(source):
        raise SettingsError(f"{target} lies in the data directory; name a folder outside of it")
    partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        vanished = _copy_files(source, partial)
        databases = _copy_databases(settings, source, partial)
        note = None
        if not settings.database_url.startswith("sqlite"):
            note = _dump(settings, partial / DUMP)
            databases += [DUMP] if note is None else []
        if note is not None:
            target = incomplete
        vanished += _copy_files(source, partial)
        made = _describe(target, partial, databases, sorted(set(vanished)), note)
        (partial / "backup.json").write_text(json.dumps(asdict(made), indent=2) + "\n")
        _sync(partial)
        partial.rename(target)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"The backup failed: {error}") from error
    return made


def _copy_files(source: Path, target: Path) -> list[str]:
    """Copy the files that are not copied yet, and return those that vanished meanwhile."""
    vanished = []
    for path in _files(source):
        name = path.relative_to(source)
        copy = target / name
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            shutil.copy2(path, copy)
        except FileNotFoundError:
            vanished.append(str(name))
    return vanished


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in LEFT_OUT or name.startswith(".incoming-") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _below(path)
        elif path.is_file() and not is_database(name):
            yield path


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".incoming-")]
        for name in sorted(names):
            if not name.startswith(".incoming-"):
                yield Path(root) / name


def is_database(name: str) -> bool:
    """Whether a file called NAME is an SQLite database, or one of its logs."""
    return name.removesuffix("-wal").removesuffix("-shm").endswith((".db", ".sqlite3"))


def _copy_databases(settings: Settings, source: Path, target: Path) -> list[str]:
    found = {path.name: path for path in source.iterdir() if path.suffix in (".db", ".sqlite3")}
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        found[DATABASE] = Path(url.database)
    else:
        # A file from before the server moved to PostgreSQL.
        found.pop(DATABASE, None)
    for name, path in found.items():
        _copy_database(path, target / name)
    return sorted(found)


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        # One complete file, without a separate log.
        copy.execute("PRAGMA journal_mode=DELETE")
        [(verdict,)] = copy.execute("PRAGMA quick_check(1)")
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"{source.name} is damaged: {verdict}")
    target.chmod(0o600)


def _dump(settings: Settings, target: Path) -> str | None:
    """Run `pg_dump` for the PostgreSQL database, or return why the dump is missing."""
    url = make_url(settings.database_url)
    # Not on the command line, which all users of this machine can read.
    secret = {"PGPASSWORD": url.password} if isinstance(url.password, str) else {}
    address = url.set(drivername="postgresql").set(password=None)
    command = [settings.pg_dump, "--format=custom", "--no-owner", f"--file={target}"]
    try:
        done = subprocess.run(
            [*command, f"--dbname={address.render_as_string(hide_password=False)}"],
            env={**os.environ, **secret},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return NOT_DUMPED.format(why=f"`{settings.pg_dump}` is not installed here")
    if done.returncode == 0:
        target.chmod(0o600)
        return None
    target.unlink(missing_ok=True)
    said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    return NOT_DUMPED.format(why=f"`{settings.pg_dump}` failed ({said[-1][:200]})")


def _describe(
    target: Path, partial: Path, databases: list[str], vanished: list[str], note: str | None
) -> Backup:
    sizes = [path.stat().st_size for path in _below(partial)]
    return Backup(
        target=str(target),
        version=version("dreadnode-training-api"),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=len(sizes),
        bytes=sum(sizes),
        databases=databases,
        vanished=vanished,
        note=note,
    )


def _sync(folder: Path) -> None:
    for path in _below(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
