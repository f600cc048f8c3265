"""Dependencies of the routes that create jobs."""

from typing import Annotated

from fastapi import Depends, Header, Request

from dreadnode_api.training.planning import Services


def services(request: Request) -> Services:
    """Return what creating a job needs of this application."""
    state = request.app.state
    return Services(
        database=state.database,
        engine=state.engine,
        store=state.store,
        preflight=state.preflight,
        validator=state.validator,
        settings=state.settings,
    )


InServices = Annotated[Services, Depends(services)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A second request with the same key and body returns the first job",
    ),
]
