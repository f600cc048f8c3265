"""What the routes of capabilities take and give."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dreadnode_api.http.schemas import Plain, Request, Response, Storable, Timestamp

MAX_PROMPT = 100_000


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
    is_public: bool = Field(False, description="Always false; nothing leaves the organization")
    created_at: Timestamp
    created_by: str | None


class CapabilityView(CapabilitySummary):
    """The same, with its prompt and what else the push told."""

    prompt: str | None = Field(description="Null when it holds no agent prompt")
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
    """Where the archive of a version can be fetched, without a key, for a few minutes."""

    download_url: str
    expires_at: Timestamp


def _kept_private(wish: Any) -> Any:
    if wish is True:
        raise ValueError(
            "nothing leaves its organization on this server, and so nothing can be made public; "
            "make those who need it members, with the role `reader`"
        )
    if wish is not False:  # As a literal 0 would do, too.
        raise ValueError("give `false`")
    return wish


class VisibilityRequest(Request):
    """Whether other organizations may see something: they may not."""

    is_public: Annotated[Literal[False], BeforeValidator(_kept_private)]


class Visibility(Response):
    """Who sees something: its own organization, and nobody else."""

    name: str
    is_public: bool = Field(description="Always false; nothing leaves the organization")


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
    """The part of an OCI image manifest that is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    config: Descriptor
    layers: list[Descriptor] = Field(max_length=100)
    annotations: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """What the image holds, such as `capability`, `dataset` or `model`."""
        return self.annotations.get("io.dreadnode.type", "")
