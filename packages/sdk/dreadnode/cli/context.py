"""What every command shares: where the server is, as whom one asks, and how the answer is shown."""

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
"""What carries requests in place of the network; set by tests."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags that every command takes."""

    json: bool = False
    """Show data as JSON."""

    server: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """The server's address; else DREADNODE_SERVER, else the active profile's."""

    api_key: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """A token of that server; else DREADNODE_API_KEY, else the profile's."""

    organization: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """The organization; else DREADNODE_ORGANIZATION, else the profile's."""

    workspace: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """The workspace; else DREADNODE_WORKSPACE, else the profile's."""

    profile: Annotated[str | None, Parameter(group=CONNECTION)] = None
    """A saved profile, in place of all of these."""

    @property
    def out(self) -> Output:
        """Where this command's data goes."""
        return Output(as_json=self.json)

    def connection(self) -> Connection:
        """Return which server is meant, and as whom it is asked."""
        from dreadnode.config import resolve

        return resolve(
            server=self.server,
            api_key=self.api_key,
            organization=self.organization,
            workspace=self.workspace,
            profile=self.profile,
        )

    def client(self, *, scoped: bool = True) -> ApiClient:
        """Return a client for the server that is meant.

        Args:
            scoped: Whether an organization and a workspace are needed.
        """
        connection = self.connection()
        from dreadnode.http.sync_api.client import ApiClient

        client = ApiClient.to(connection, transport=transport.get())
        if scoped:
            self.complete(client)
        return client

    def complete(self, client: ApiClient) -> None:
        """Set what is missing of the client's scope.

        The only organization that the key may see is taken, and its default workspace.
        """
        if not client.scope.organization:
            organizations = client.list_organizations()
            if len(organizations) != 1:
                keys = ", ".join(f"`{each.key}`" for each in organizations) or "none"
                raise ConfigError(
                    f"no organization is set, and the key may see {keys}; name one with "
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
