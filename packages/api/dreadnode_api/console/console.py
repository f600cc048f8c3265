"""Joins the pages of the console: their routers, their menu, and the page of an error."""

from fastapi import Depends, FastAPI

from dreadnode_api.console import (
    assets,
    catalog,
    chat,
    compare,
    costs,
    datasets,
    job_actions,
    job_evaluation,
    job_list,
    job_page,
    job_rollouts,
    job_row,
    members,
    new_job,
    sign_in,
    tokens,
    workspaces,
)
from dreadnode_api.console.curves import Curves
from dreadnode_api.console.deps import check_form
from dreadnode_api.console.errors import error_page
from dreadnode_api.console.job_feed import JobFeeds
from dreadnode_api.http.query_parameters import refuse_unknown

PAGES = (
    sign_in,
    workspaces,
    job_list,
    job_page,
    job_rollouts,
    job_evaluation,
    job_row,
    job_actions,
    catalog,
    new_job,
    compare,
    datasets,
    chat,
    members,
    tokens,
    costs,
)
NAVIGATION = {
    "Jobs": "jobs",
    "Compare": "compare",
    "Catalog": "catalog",
    "Datasets": "datasets",
    "Settings": "settings",
}
"""The menu: the labels of its entries, and their paths within a workspace."""


def install(app: FastAPI) -> None:
    """Add the console to APP."""
    app.state.navigation = NAVIGATION
    app.state.error_page = error_page
    app.state.curves = Curves()
    app.state.job_feeds = JobFeeds(app.state.database, app.state.settings)
    app.include_router(assets.router, include_in_schema=False)
    for page in PAGES:
        app.include_router(
            page.router,
            include_in_schema=False,
            dependencies=[Depends(refuse_unknown), Depends(check_form)],
        )
