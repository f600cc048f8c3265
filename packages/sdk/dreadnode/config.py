"""Which server to ask, as whom, and where: read once, at the edge.

Each setting comes from a flag, else from the environment, else from a saved profile. A key is only
ever sent to the server that it was given for: a profile's key to the profile's address, and the
environment's key to the environment's address. There is no server by default.

Profiles are kept in `~/.dreadnode/config.yaml` (`DREADNODE_CONFIG_DIR` names another folder):

    active: work
    servers:
      work:
        url: https://training.example.com
        api_key: dn_...
        default_organization: main
        default_workspace: default
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dreadnode.errors import ConfigError, InputError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Scope:
    """The organization and workspace that a call is about; a call may need neither."""

    organization: str | None = None
    workspace: str | None = None


@dataclass(frozen=True)
class Connection:
    """Which server, as whom, and the scope of what is asked there."""

    server: str
    api_key: str | None = None
    scope: Scope = Scope()
    profile: str | None = None


@dataclass(frozen=True)
class Profile:
    """One saved server."""

    name: str
    url: str
    api_key: str | None = None
    organization: str | None = None
    workspace: str | None = None
    username: str | None = None


def resolve(
    *,
    server: str | None = None,
    api_key: str | None = None,
    organization: str | None = None,
    workspace: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Connection:
    """Join flags, environment and profiles into one connection.

    Args:
        server: The flag `--server`; likewise the others.
        api_key: The key for SERVER.
        organization: The organization's key.
        workspace: The workspace's key.
        profile: The name of a saved profile; it comes before the environment.
        environ: The environment; that of this process if None.

    Raises:
        ConfigError: No server is known, or there is no such profile.
        InputError: The flags exclude each other.
    """
    environ = os.environ if environ is None else environ
    if profile and (server or api_key):
        flag = "--server" if server else "--api-key"
        raise InputError(f"`--profile` already names a server and a key; leave out `{flag}`")

    saved = Profiles.load(environ)
    if profile:
        # A profile that is asked for by name is asked for whole: the environment stands back.
        base: Profile | None = saved.get(profile)
        url, environ = base.url if base else None, {}
    else:
        url = server or environ.get("DREADNODE_SERVER") or None
        base = saved.at(url) if url else saved.get(saved.active) if saved.active else None
        url = url or (base.url if base else None)
    if url is None:
        raise ConfigError(
            "no server is configured; start one on this machine with `dn serve`, or name one with "
            "`--server`, DREADNODE_SERVER or `dn login`"
        )

    base = base or Profile(name="", url=url)
    return Connection(
        server=server_url(url),
        api_key=api_key or _key_of(environ, url) or base.api_key,
        scope=Scope(
            organization or environ.get("DREADNODE_ORGANIZATION") or base.organization,
            workspace or environ.get("DREADNODE_WORKSPACE") or base.workspace,
        ),
        profile=base.name or None,
    )


def _key_of(environ: Mapping[str, str], url: str) -> str | None:
    """Return the environment's key, unless the environment means it for another server."""
    server = environ.get("DREADNODE_SERVER")
    return environ.get("DREADNODE_API_KEY") if not server or same_server(server, url) else None


def server_url(url: str) -> str:
    """Return URL without what is not part of an address, or say why it is none."""
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        usable = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"`{url}` is not the address of a server, such as https://training.example.com"
        )
    if parts.username or parts.password:
        raise ConfigError(
            "the server's address holds a user or password; give the key by `--api-key`"
        )
    return parts.geturl()


def same_server(one: str, other: str) -> bool:
    """Tell whether two addresses name one server; the names of this machine are equal."""
    return _address(one) == _address(other)


def is_loopback(url: str) -> bool:
    """Tell whether URL points to this machine."""
    return (urlsplit(url).hostname or "") in _LOOPBACK


def _address(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url.strip().rstrip("/"))
    host = (parts.hostname or "").lower()
    return (
        parts.scheme,
        "localhost" if host in _LOOPBACK else host,
        parts.port or _DEFAULT_PORTS.get(parts.scheme),
        parts.path.removesuffix("/api/v1"),
    )


class Profiles:
    """The saved servers. Keys of the file that this version does not know are kept as they are."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self._content = content

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Profiles:
        """Read the saved servers; no file means no servers."""
        path = config_path(environ)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        import yaml

        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{path} is not YAML; mend it, or remove it and log in again"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("servers") or {}, dict):
            raise ConfigError(f"{path} holds no profiles; remove it and log in again")
        return cls(path, content)

    @property
    def active(self) -> str | None:
        """The name of the profile that is used when nothing else is said."""
        name = self._content.get("active")
        return str(name) if name else None

    @property
    def names(self) -> list[str]:
        """The names of all profiles."""
        return [str(name) for name in self._servers]

    def get(self, name: str) -> Profile:
        """Return the profile called NAME, or say which there are."""
        entry = self._servers.get(name)
        if not isinstance(entry, dict) or not entry.get("url"):
            known = ", ".join(f"`{each}`" for each in self.names) or "none yet"
            raise ConfigError(f"there is no profile `{name}` in {self.path}; there are: {known}")
        return Profile(
            name=name,
            url=str(entry["url"]),
            api_key=entry.get("api_key"),
            organization=entry.get("default_organization"),
            workspace=entry.get("default_workspace"),
            username=entry.get("username"),
        )

    def at(self, url: str) -> Profile | None:
        """Return the profile of the server at URL, the active one first, if there is any."""
        names = sorted(self.names, key=lambda name: name != self.active)
        profiles = (self.get(name) for name in names if (self._servers[name] or {}).get("url"))
        return next((each for each in profiles if same_server(each.url, url)), None)

    def save(self, profile: Profile) -> None:
        """Write PROFILE, make it the active one, and keep everything else in the file."""
        entry = self._servers.get(profile.name)
        entry = dict(entry) if isinstance(entry, dict) else {}
        entry |= {
            "url": profile.url,
            "api_key": profile.api_key,
            "default_organization": profile.organization,
            "default_workspace": profile.workspace,
            "username": profile.username,
        }
        servers = {**self._servers, profile.name: {k: v for k, v in entry.items() if v is not None}}
        self._write({**self._content, "active": profile.name, "servers": servers})

    def remove(self, name: str) -> Profile:
        """Forget the profile called NAME and return what it was."""
        profile = self.get(name)
        servers = {each: entry for each, entry in self._servers.items() if each != name}
        content = {**self._content, "servers": servers}
        if self.active == name:
            content.pop("active")
        self._write(content)
        return profile

    @property
    def _servers(self) -> dict[str, Any]:
        return self._content.get("servers") or {}

    def _write(self, content: dict[str, Any]) -> None:
        """Replace the file in one step; only its owner may read it, since it holds keys."""
        import yaml

        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                yaml.safe_dump(content, file, sort_keys=False)
            fresh.replace(self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error
        self._content = content


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where profiles are kept."""
    environ = os.environ if environ is None else environ
    folder = environ.get("DREADNODE_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".dreadnode") / "config.yaml"
