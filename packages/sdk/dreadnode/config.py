"""The connection of a command: server, token and scope, from flags, environment and profiles.

A flag comes before the environment, and the environment before the active profile. A token is only
sent to its own server: a profile's token to the profile's address, and the environment's token to
the environment's address. There is no default server.

Profiles are stored in `~/.dreadnode/config.yaml` (DREADNODE_CONFIG_DIR names another folder):

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

from dreadnode.errors import ConfigError, InputError, NoServerSet

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Scope:
    """The organization and the workspace of a call, where the call needs them."""

    organization: str | None = None
    workspace: str | None = None


@dataclass(frozen=True)
class Connection:
    """A server, a token, and the scope of calls."""

    server: str
    api_key: str | None = None
    scope: Scope = Scope()
    profile: str | None = None


@dataclass(frozen=True)
class Profile:
    """One saved server with its token and scope."""

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
    """Return the connection that flags, environment and profiles describe.

    Args:
        server: The flag `--server`; the other arguments are flags too.
        api_key: The token for SERVER.
        organization: The organization's slug.
        workspace: The workspace's slug.
        profile: The name of a saved profile, which replaces the environment.
        environ: The environment; this process's own if None.

    Raises:
        NoServerSet: No server is set.
        ConfigError: The profile does not exist.
        InputError: The flags contradict each other.
    """
    environ = os.environ if environ is None else environ
    if profile and (server or api_key):
        flag = "--server" if server else "--api-key"
        raise InputError(f"`--profile` already has a server and a token; leave out `{flag}`")

    saved = Profiles.load(environ)
    if profile:
        # A named profile is used as a whole, without the environment.
        base: Profile | None = saved.get(profile)
        url, environ = base.url if base else None, {}
    else:
        url = server or environ.get("DREADNODE_SERVER") or None
        base = saved.at(url) if url else saved.get(saved.active) if saved.active else None
        url = url or (base.url if base else None)
    if url is None:
        raise NoServerSet(
            "no server is set; start one on this machine with `dn serve`, or name one with "
            "`--server`, DREADNODE_SERVER, `dn login` or `dn profile use`"
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
    """Return the environment's token, unless it belongs to another server."""
    server = environ.get("DREADNODE_SERVER")
    return environ.get("DREADNODE_API_KEY") if not server or same_server(server, url) else None


def server_url(url: str) -> str:
    """Return URL without spaces and a final slash.

    Raises:
        ConfigError: URL is not the address of a server.
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        usable = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"`{url}` is not a server address such as https://training.example.com")
    if parts.username or parts.password:
        raise ConfigError(
            "the server address contains a user or a password; pass the token with `--api-key`"
        )
    return parts.geturl()


def same_server(one: str, other: str) -> bool:
    """Return whether two addresses are one server; all names of this machine are equal."""
    return _address(one) == _address(other)


def is_loopback(url: str) -> bool:
    """Return whether URL is on this machine."""
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
    """The saved profiles; unknown content of their file is preserved."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self._content = content

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Profiles:
        """Read the saved profiles; without a file there are none."""
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
                f"{path} is not valid YAML; repair it, or remove it and log in again"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("servers") or {}, dict):
            raise ConfigError(f"{path} does not contain profiles; remove it and log in again")
        return cls(path, content)

    @property
    def active(self) -> str | None:
        """The name of the profile that is used by default."""
        name = self._content.get("active")
        return str(name) if name else None

    @property
    def names(self) -> list[str]:
        """The names of all profiles."""
        return [str(name) for name in self._servers]

    def get(self, name: str) -> Profile:
        """Return the profile NAME.

        Raises:
            ConfigError: It does not exist; the message lists those that do.
        """
        entry = self._servers.get(name)
        if not isinstance(entry, dict) or not entry.get("url"):
            known = ", ".join(f"`{each}`" for each in self.names) or "none"
            raise ConfigError(f"profile `{name}` is not in {self.path}; profiles: {known}")
        return Profile(
            name=name,
            url=str(entry["url"]),
            api_key=entry.get("api_key"),
            organization=entry.get("default_organization"),
            workspace=entry.get("default_workspace"),
            username=entry.get("username"),
        )

    def at(self, url: str) -> Profile | None:
        """Return a profile of the server at URL, the active one first; None if there is none."""
        names = sorted(self.names, key=lambda name: name != self.active)
        profiles = (self.get(name) for name in names if (self._servers[name] or {}).get("url"))
        return next((each for each in profiles if same_server(each.url, url)), None)

    def save(self, profile: Profile) -> None:
        """Write PROFILE and make it the active one."""
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
        """Delete the profile NAME and return it; if it was active, another one becomes active."""
        profile = self.get(name)
        servers = {each: entry for each, entry in self._servers.items() if each != name}
        content = {**self._content, "servers": servers}
        if self.active == name:
            content |= {"active": next(iter(servers), None)}
        self._write({key: value for key, value in content.items() if value is not None})
        return profile

    def activate(self, name: str) -> Profile:
        """Make the profile NAME the active one and return it."""
        profile = self.get(name)
        self._write({**self._content, "active": name})
        return profile

    @property
    def _servers(self) -> dict[str, Any]:
        return self._content.get("servers") or {}

    def _write(self, content: dict[str, Any]) -> None:
        """Replace the file atomically; only its owner can read it, because it contains tokens."""
        import yaml

        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                yaml.safe_dump(content, file, sort_keys=False)
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error
        self._content = content


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the file of the profiles."""
    environ = os.environ if environ is None else environ
    folder = environ.get("DREADNODE_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".dreadnode") / "config.yaml"
