"""The methods that both clients have: one for each call that is described, and named only here.

A `Method` becomes a method of the client that it is asked of: one that blocks for `ApiClient`, one
that is awaited for `AsyncApiClient`, with the arguments of the description less the scope, and
with what its call gives as the result.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from dreadnode.config import Connection, Scope, resolve, server_url
from dreadnode.http.calls import Call, capabilities, catalog, datasets, identity, jobs, webhooks
from dreadnode.http.httpx_import import httpx
from dreadnode.http.retries import Retries
from dreadnode.http.transport import TIMEOUT, http_options

if TYPE_CHECKING:
    from dreadnode.http.async_client import AsyncApiClient
    from dreadnode.http.client import ApiClient

P = ParamSpec("P")
T = TypeVar("T")


class Method(Generic[P, T]):
    """A method of either client, from the description of its call."""

    def __init__(self, describe: Callable[Concatenate[Scope, P], Call[T]]) -> None:
        self._describe = describe

    @overload
    def __get__(self, client: None, kind: type[Methods]) -> Callable[..., Any]: ...

    @overload
    def __get__(self, client: ApiClient, kind: type[Methods]) -> Callable[P, T]: ...

    @overload
    def __get__(
        self, client: AsyncApiClient, kind: type[Methods]
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Methods | None, kind: type[Methods]) -> Callable[..., Any]:
        """Return the method of CLIENT, or the function of its KIND when asked of the class."""
        function = kind.make_method(self._describe)
        return function if client is None else MethodType(function, client)


class Methods:
    """What both clients share: how they are made, and every call."""

    def __init__(
        self,
        server: str,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        workspace: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        retries: Retries | None = None,
    ) -> None:
        self.server = server_url(server)
        self.scope = Scope(organization, workspace)
        self._retries = retries or Retries()
        self._http_options = http_options(self.server, api_key, timeout)

    @staticmethod
    def make_method(describe: Callable[Concatenate[Scope, P], Call[T]]) -> Callable[..., Any]:
        """Return the function that takes a client, makes the call, and returns what it gives."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, **flags: Any) -> Self:
        """Make a client from flags, environment and profile: see `dreadnode.config.resolve`."""
        return cls.to(resolve(**flags))

    @classmethod
    def to(cls, connection: Connection, **options: Any) -> Self:
        """Make a client for CONNECTION; OPTIONS are those of the constructor."""
        return cls(
            connection.server,
            connection.api_key,
            organization=connection.scope.organization,
            workspace=connection.scope.workspace,
            **options,
        )

    get_user = Method(identity.get_user)
    list_organizations = Method(identity.list_organizations)
    list_workspaces = Method(identity.list_workspaces)
    create_workspace = Method(identity.create_workspace)
    create_token = Method(identity.create_token)
    list_tokens = Method(identity.list_tokens)
    revoke_token = Method(identity.revoke_token)
    list_members = Method(identity.list_members)
    add_member = Method(identity.add_member)
    set_role = Method(identity.set_role)
    remove_member = Method(identity.remove_member)

    get_training_catalog = Method(catalog.get_training_catalog)
    get_catalog_model = Method(catalog.get_catalog_model)

    push_dataset = Method(datasets.push_dataset)
    list_datasets = Method(datasets.list_datasets)
    get_dataset = Method(datasets.get_dataset)
    get_dataset_version = Method(datasets.get_dataset_version)
    dataset_content = Method(datasets.dataset_content)

    push_capability = Method(capabilities.push_capability)
    list_capabilities = Method(capabilities.list_capabilities)
    get_capability = Method(capabilities.get_capability)
    get_capability_version = Method(capabilities.get_capability_version)
    delete_capability = Method(capabilities.delete_capability)
    capability_archive = Method(capabilities.capability_archive)

    create_training_job = Method(jobs.create_training_job)
    list_training_jobs = Method(jobs.list_training_jobs)
    get_training_job = Method(jobs.get_training_job)
    cancel_training_job = Method(jobs.cancel_training_job)
    retry_training_job = Method(jobs.retry_training_job)
    list_training_job_logs = Method(jobs.list_training_job_logs)
    get_training_job_artifacts = Method(jobs.get_training_job_artifacts)
    list_training_job_files = Method(jobs.list_training_job_files)
    training_job_file = Method(jobs.training_job_file)
    list_training_job_checkpoints = Method(jobs.list_training_job_checkpoints)
    export_training_job_checkpoint = Method(jobs.export_training_job_checkpoint)
    chat_with_training_job = Method(jobs.chat_with_training_job)

    create_webhook = Method(webhooks.create_webhook)
    list_webhooks = Method(webhooks.list_webhooks)
    delete_webhook = Method(webhooks.delete_webhook)
    list_webhook_deliveries = Method(webhooks.list_webhook_deliveries)
