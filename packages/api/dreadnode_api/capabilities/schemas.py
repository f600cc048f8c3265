"""Requests and responses about capabilities."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dreadnode_api.capabilities.archive import MAX_PROMPT
from dreadnode_api.http.schemas import Plain, Request, Response, Storable, Timestamp


class CapabilityRequest(Request):
    """A capability that is one prompt."""

    prompt: Storable = Field(max_length=MAX_PROMPT, description="The system prompt")
    description: Annotated[Storable, Field(max_length=2000)] | None = None


class CapabilitySummary(Response):
    """One immutable version of a capability."""

    id: str
    name: str
    version: str
    description: Plain | None
    entry_agent: str | None = Field(description="The agent whose prompt it is")
    artifact_sha256: str = Field(description="Digest of what was pushed")
    is_public: bool = Field(False, description="Always false; nothing can be made public")
    created_at: Timestamp
    created_by: str | None


class CapabilityView(CapabilitySummary):
    """A version with its prompt and the details of the push."""

    prompt: str | None = Field(description="Null if it has no agent prompt")
    details: dict[str, Any]


class CapabilityList(Response):
    """The newest version of each capability, by name."""

    capabilities: list[CapabilitySummary]
    total: int
    page: int
    limit: int


class CapabilityVersions(Response):
    """The versions of a capability, newest first."""

    versions: list[str]


class CapabilityBundle(Response):
    """A URL that downloads the archive of a version without a token for a few minutes."""

    download_url: str
    expires_at: Timestamp


def _refuse_public(value: Any) -> Any:
    if value is True:
        raise ValueError(
            "this server cannot make anything public; add the people who need it as members with "
            "the role `reader`"
        )
    if value is not False:  # A literal would accept 0, too.
        raise ValueError("give `false`")
    return value


class VisibilityRequest(Request):
    """Whether other organizations may see something; only `false` is possible."""

    is_public: Annotated[Literal[False], BeforeValidator(_refuse_public)]


class Visibility(Response):
    """Whether other organizations may see something; always false."""

    name: str
    is_public: bool = Field(description="Always false; nothing can be made public")


class Descriptor(BaseModel):
    """How an OCI manifest names a blob."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    mediaType: str = Field(max_length=200)  # noqa: N815 (OCI's own name)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)

    @property
    def sha256(self) -> str:
        """The digest without its prefix."""
        return self.digest.removeprefix("sha256:")


class ImageManifest(BaseModel):
    """The fields of an OCI image manifest that are used here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    config: Descriptor
    layers: list[Descriptor] = Field(max_length=100)
    annotations: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """What the image contains, such as `capability`, `dataset` or `model`."""
        return self.annotations.get("io.dreadnode.type", "")
