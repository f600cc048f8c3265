"""The flags that all commands share: server, token, scope, and JSON output."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from dreadnode.cli.output import Output
from dreadnode.errors import ConfigError

if TYPE_CHECKING:
    from dreadnode.config import Connection
    from dreadnode.http.sync_api.client import ApiClient

CONNECTION = Group("Connection", sort_key=90)

transport: ContextVar[Any] = ContextVar("transport", default=None)
"""Carries requests instead of the network; set by tests."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every command."""

    json: bool = False
    """Print data as JSON, and errors as a JSON object on stderr."""

    server: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """Address of the server; else DREADNODE_SERVER, else the active profile's."""

    api_key: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """API token of that server; else DREADNODE_API_KEY, else the profile's."""

    organization: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """Organization; else DREADNODE_ORGANIZATION, else the profile's."""

    workspace: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """Workspace; else DREADNODE_WORKSPACE, else the profile's."""

    profile: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """Saved profile, instead of the flags and variables above."""

    @property
    def out(self) -> Output:
        """Prints this command's data."""
        return Output(as_json=self.json)

    def connection(self) -> Connection:
        """Return the server, the token and the scope of this command."""
        from dreadnode.config import resolve

        return resolve(
            server=self.server,
            api_key=self.api_key,
            organization=self.organization,
            workspace=self.workspace,
            profile=self.profile,
        )

    def client(self, *, scoped: bool = True) -> ApiClient:
        """Return a client for this command's server.

        Args:
            scoped: Whether the command needs an organization and a workspace.
        """
        connection = self.connection()
        from dreadnode.http.sync_api.client import ApiClient

        client = ApiClient.to(connection, transport=transport.get())
        if scoped:
            complete_scope(client)
        return client


def complete_scope(client: ApiClient) -> None:
    """Fill in the client's scope: the user's only organization, and its default workspace."""
    if not client.scope.organization:
        organizations = client.list_organizations()
        if len(organizations) != 1:
            keys = ", ".join(f"`{each.key}`" for each in organizations) or "none"
            raise ConfigError(
                f"no organization is set, and the token has access to {keys}; name one with "
                "`--organization` or DREADNODE_ORGANIZATION"
            )
        client.scope = replace(client.scope, organization=organizations[0].key)
    if not client.scope.workspace:
        workspaces = client.list_workspaces()
        if not workspaces:
            raise ConfigError(f"organization `{client.scope.organization}` has no workspace")
        default = next((each for each in workspaces if each.is_default), workspaces[0])
        client.scope = replace(client.scope, workspace=default.key)


DEFAULT = Common()
