"""`dn train catalog`: the base models, their prices, and which of them this server can train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say, show, table
from dreadnode.errors import InputError
from dreadnode.training import CATALOG_AS_OF, TINKER_MODELS, CatalogQueryError

if TYPE_CHECKING:
    from dreadnode.catalog.search import Query
    from dreadnode.cli.output import Column

FILTERS = Group("Filters", sort_key=1)
OUTPUT = Group("Output", sort_key=2)

_Filter = Parameter(group=FILTERS)
_Output = Parameter(group=OUTPUT)
_SHOWN = "lifecycle,extended,prices,available"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which models are meant."""

    query: Annotated[str | None, Parameter(name=["--query", "--search"], group=FILTERS)] = None
    """Words that all occur in the id or the display name."""

    family: Annotated[str | None, _Filter] = None
    """Only this family: llama, qwen, …"""

    algorithm: Annotated[str | None, _Filter] = None
    """Only what this trains: sft, importance_sampling, ppo."""

    min_size_b: Annotated[float | None, _Filter] = None
    """Least active size, in billions of parameters."""

    max_size_b: Annotated[float | None, _Filter] = None
    """Greatest active size."""

    type: Annotated[str | None, _Filter] = None
    """Only dense models, or only moe."""

    status: Annotated[str | None, _Filter] = None
    """Only active models, or only retired."""

    min_context: Annotated[int | None, _Filter] = None
    """Least context, in tokens."""

    vision: Annotated[bool | None, Parameter(negative="--no-vision", group=FILTERS)] = None
    """Only models that read images, or only those that do not."""

    max_prefill: Annotated[float | None, _Filter] = None
    """Highest price of a prompt, in USD per million tokens; an unknown price is above it."""

    max_cached_prefill: Annotated[float | None, _Filter] = None
    """Highest price of a prompt that is cached."""

    max_sample: Annotated[float | None, _Filter] = None
    """Highest price of sampling."""

    max_train: Annotated[float | None, _Filter] = None
    """Highest price of training."""

    sort: Annotated[str | None, _Filter] = None
    """A number to sort by: size_b, context_length, train, …; downwards with a leading -."""

    limit: Annotated[int, Parameter(group=FILTERS, show_default=True)] = 20
    """How many to show, at most 100."""

    offset: Annotated[int, Parameter(group=FILTERS, show_default=True)] = 0
    """How many to skip."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shape:
    """How what is found is shown, apart from `--json`."""

    csv: Annotated[bool, _Output] = False
    """Show every fact as comma-separated values."""

    ids: Annotated[bool, _Output] = False
    """Show the ids alone, one a line."""

    expand: Annotated[str | None, _Output] = None
    """With --json, what to add: details, prices, extended, lifecycle, available, or all."""

    facets: Annotated[bool, _Output] = False
    """With --json, count the values of all matches."""


def catalog(
    *,
    filters: Filters = Filters(),
    shape: Shape = Shape(),
    offline: Annotated[bool, Parameter(help="Use this program's own copy; ask no server.")] = False,
    check: Annotated[
        bool,
        Parameter(
            help="Compare the catalog with what the server's engine serves, or Tinker if "
            "TINKER_API_KEY is set; exit code 1 if they differ."
        ),
    ] = False,
    common: Common = DEFAULT,
) -> None:
    """List the base models that can be trained, what they cost, and what this server has."""
    _refuse_contradictions(shape, common, offline=offline, check=check)
    query = _checked(filters, shape)
    if check:
        from dreadnode.cli.train.catalog_check import compare

        compare(common)
        return
    expand = shape.expand if common.json else "" if shape.ids else "all" if shape.csv else _SHOWN
    page = _own(query, expand, shape) if offline else _served(query, expand, shape, common)
    _show(page, shape, common, offline=offline)


def _refuse_contradictions(shape: Shape, common: Common, *, offline: bool, check: bool) -> None:
    forms = {"--json": common.json, "--csv": shape.csv, "--ids": shape.ids}
    chosen = [name for name, given in forms.items() if given]
    if len(chosen) > 1:
        raise InputError(f"`{chosen[0]}` and `{chosen[1]}` exclude each other; leave one out")
    if check and offline:
        raise InputError("`--check` asks what is served, and `--offline` asks nobody; choose one")
    for name, given in (("--expand", shape.expand), ("--facets", shape.facets)):
        if given and not common.json:
            raise InputError(f"`{name}` changes what `--json` shows; add `--json` or leave it out")


def _checked(filters: Filters, shape: Shape) -> Query:
    """Return the query that FILTERS ask, or say which flag cannot be meant."""
    from dreadnode.catalog.search import Query
    from dreadnode.catalog.view import expansions

    try:
        expansions(shape.expand)
        return Query(**asdict(filters))
    except CatalogQueryError as error:
        text = str(error)
        for name in Query.__dataclass_fields__:
            text = text.replace(f"`{name}`", f"`--{name.replace('_', '-')}`")
        raise InputError(text.replace("`expand`", "`--expand`")) from None


def _own(query: Query, expand: str | None, shape: Shape) -> dict[str, Any]:
    from dreadnode.catalog import view
    from dreadnode.catalog.search import run

    answer: dict[str, Any] = view.page(
        run(query, TINKER_MODELS), view.expansions(expand), facets=shape.facets
    )
    return answer


def _served(query: Query, expand: str | None, shape: Shape, common: Common) -> dict[str, Any]:
    asked = {name: value for name, value in asdict(query).items() if value is not None}
    if not asked["offset"]:
        del asked["offset"]
    with common.client(scoped=False) as client:
        return client.get_training_catalog(
            **asked, expand=expand or None, facets="true" if shape.facets else None
        )


def _show(page: dict[str, Any], shape: Shape, common: Common, *, offline: bool) -> None:
    models = page["models"]
    if offline:
        say(f"this program's own copy, of {CATALOG_AS_OF}; no server was asked")
    if common.json:
        common.out.json(page)
    elif shape.csv:
        _csv(models)
    elif shape.ids:
        common.out.text(*(model["tinker_id"] for model in models))
    elif models:
        columns = COLUMNS if offline else [*COLUMNS, HERE]
        cells = [[show(cell(model)) for _, cell in columns] for model in models]
        common.out.text(*table(cells, columns))
        _explain(page, offline=offline)
    else:
        say("no model matches")


def _explain(page: dict[str, Any], *, offline: bool) -> None:
    """Say what the table cannot: units, discounts, and how old the knowledge of the engine is."""
    models, total = page["models"], page["total"]
    lines = ["prices in USD per million tokens"]
    if any(model["promo"] for model in models):
        lines.append("* a discount that can end without notice")
    engine = page.get("engine") or {}
    if not offline and engine.get("age_seconds") is not None:
        lines.append(f"HERE as of {engine['age_seconds']:.0f} s ago")
    say("; ".join(lines))
    if engine.get("detail"):
        say(f"what this server can train is not known: {engine['detail']}")
    if total > len(models):
        start = page.get("offset") or 0
        hint(
            f"{start + 1} to {start + len(models)} of {total}; "
            f"`--limit {min(total, 100)}` shows more, and filters fewer"
        )


def _csv(models: list[dict[str, Any]]) -> None:
    import csv
    import sys

    rows = [_flat(model) for model in models]
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ENTRY with the fields of what it holds beside its own; an unknown value is empty."""
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if name in _NESTED:
            inner = value or dict.fromkeys(_NESTED[name])
            flat |= _flat(inner, f"{prefix}{name}_")
        else:
            flat[prefix + name] = "; ".join(value) if isinstance(value, list) else value
    return flat


_RATES = ("prefill", "sample", "train", "cached_prefill")
_NESTED: dict[str, tuple[str, ...]] = {
    "pricing": _RATES,
    "list_pricing": _RATES,
    "extended": ("tinker_id", "context_length", "pricing", "pricing_as_of"),
}


def _size(model: dict[str, Any]) -> str:
    return f"{model['size_b']:g}B" + (" active" if model["type"] == "moe" else "")


def _context(model: dict[str, Any]) -> str:
    extended = model["extended"]
    longer = f" (or {extended['context_length'] // 1024}K)" if extended else ""
    return f"{model['context_length'] // 1024}K{longer}"


def _status(model: dict[str, Any]) -> str:
    day = f" {model['retired_on']}" if model["retired_on"] else ""
    return f"{model['status']}{day}"


def _here(model: dict[str, Any]) -> str:
    served = [model["available"], (model["extended"] or {}).get("available")]
    if model["available"] is None:
        return "?"
    return "yes" if served[0] else "extended" if served[1] else "no"


def _rate(name: Literal["prefill", "sample", "train"]) -> Column:
    def cell(model: dict[str, Any]) -> str:
        price = (model["pricing"] or {}).get(name)
        if price is None:
            return "unknown"
        return f"{price:.3f}".rstrip("0").rstrip(".") + ("*" if model["promo"] else "")

    return name, cell


COLUMNS: list[Column] = [
    ("model", lambda model: model["tinker_id"]),
    ("size", _size),
    ("context", _context),
    _rate("prefill"),
    _rate("sample"),
    _rate("train"),
    ("status", _status),
]
HERE: Column = ("here", _here)
