"""How a wish for a job names what was pushed before."""

from pydantic import Field

from app.datasets.schemas import NAME, VERSION
from app.schemas import Request


class Ref(Request):
    """Something that was pushed, by name and version."""

    name: str = Field(pattern=NAME)
    version: str = Field(pattern=VERSION)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"
