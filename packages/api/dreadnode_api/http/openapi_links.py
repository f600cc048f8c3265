"""Which call follows which: OpenAPI links, by which tools walk from an answer to the next call.

They are derived from the description itself. A call that makes something (201) or changes it leads
to every call whose path begins with that thing's own and asks for its id.
"""

from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")
# The path parameters by which things are named that have an `id` in the answer that makes them.
_BY_ID = ("job_id", "token_id", "webhook_id")


def add_links(description: dict[str, Any]) -> dict[str, Any]:
    """Add to DESCRIPTION the links from each call that makes something, and return it."""
    for path, operations in description["paths"].items():
        for operation in operations.values():
            if "201" in operation["responses"]:
                links = _links(description["paths"], path, operation)
                if links:
                    operation["responses"]["201"]["links"] = links
    return description


def _links(paths: dict[str, Any], path: str, made_by: dict[str, Any]) -> dict[str, Any]:
    """Return links from the call at PATH to the calls about what it has made."""
    links: dict[str, Any] = {}
    for other, operations in paths.items():
        rest = other.removeprefix(path)
        if not other.startswith(path) or rest[:1] not in ("", "/"):
            continue
        parameters = _carried(path) | _named(rest)
        for method in _METHODS:
            operation = operations.get(method)
            if operation is None or operation is made_by:
                continue
            needed = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            if needed == parameters.keys():
                links[operation["operationId"]] = {
                    "operationId": operation["operationId"],
                    "parameters": parameters,
                }
    return links


def _carried(path: str) -> dict[str, str]:
    """Return the parameters that stay as they were in the call itself."""
    parts = (part[1:-1] for part in path.split("/") if part.startswith("{"))
    return {name: f"$request.path.{name}" for name in parts}


def _named(rest: str) -> dict[str, str]:
    """Return the parameter of what the call has made, if the path goes on with it."""
    first = rest.strip("/").split("/")[0]
    name = first[1:-1] if first.startswith("{") else ""
    if name == "user_id":
        return {name: "$response.body#/member/id"}
    return {name: "$response.body#/id"} if name in _BY_ID else {}
