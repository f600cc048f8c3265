"""`dn train catalog`: base models, their prices, and which of them this server can train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from dreadnode.cli import units
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say, widest_table
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
    """The filters of the list."""

    query: Annotated[str | None, Parameter(name=["--query", "--search"], group=FILTERS)] = None
    """Words in the id or the display name; all must occur."""

    family: Annotated[str | None, _Filter] = None
    """Model family: llama, qwen, …"""

    algorithm: Annotated[str | None, _Filter] = None
    """Training algorithm: sft, importance_sampling, ppo."""

    min_size_b: Annotated[float | None, _Filter] = None
    """Minimum active size, in billions of parameters."""

    max_size_b: Annotated[float | None, _Filter] = None
    """Maximum active size, in billions of parameters."""

    type: Annotated[str | None, _Filter] = None
    """Architecture: dense or moe."""

    status: Annotated[str | None, _Filter] = None
    """Status: active or retired."""

    min_context: Annotated[int | None, Parameter(group=FILTERS, converter=units.token_count)] = None
    """Minimum context length in tokens, or as `64K`."""

    vision: Annotated[bool | None, Parameter(negative="--no-vision", group=FILTERS)] = None
    """Only models with image input, or only models without."""

    max_prefill: Annotated[float | None, _Filter] = None
    """Maximum prefill price in USD per million tokens; unknown prices do not match."""

    max_cached_prefill: Annotated[float | None, _Filter] = None
    """Maximum price of cached prefill."""

    max_sample: Annotated[float | None, _Filter] = None
    """Maximum price of sampling."""

    max_train: Annotated[float | None, _Filter] = None
    """Maximum price of training."""

    sort: Annotated[str | None, _Filter] = None
    """Sort key: size_b, context_length, train, …; descending with a leading -."""

    limit: Annotated[int, Parameter(group=FILTERS, show_default=True)] = 20
    """Number of models to show, at most 100."""

    offset: Annotated[int, Parameter(group=FILTERS, show_default=True)] = 0
    """Number of models to skip."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Format:
    """The output format, if it is not `--json`."""

    csv: Annotated[bool, _Output] = False
    """Print all fields as comma-separated values."""

    ids: Annotated[bool, _Output] = False
    """Print only the ids, one on each line."""

    expand: Annotated[str | None, _Output] = None
    """With --json, further fields: details, prices, extended, lifecycle, available, or all."""

    facets: Annotated[bool, _Output] = False
    """With --json, also count the values of all matches."""


def catalog(
    *,
    filters: Filters = Filters(),
    output: Format = Format(),
    offline: Annotated[
        bool, Parameter(help="Use the catalog of this program, without a server.")
    ] = False,
    check: Annotated[
        bool,
        Parameter(
            help="Compare the catalog with the models that the server's engine serves, or that "
            "Tinker serves if TINKER_API_KEY is set; exit code 1 if they differ."
        ),
    ] = False,
    common: Common = DEFAULT,
) -> None:
    """List base models with their prices, and whether this server can train them."""
    _refuse_contradictions(output, common, offline=offline, check=check)
    query = _checked(filters, output)
    if check:
        from dreadnode.cli.train.catalog_check import compare

        compare(common)
        return
    expand = output.expand if common.json else "" if output.ids else "all" if output.csv else _SHOWN
    page = _local(query, expand, output) if offline else _from_server(query, expand, output, common)
    _show(page, output, common, offline=offline)


def _refuse_contradictions(output: Format, common: Common, *, offline: bool, check: bool) -> None:
    forms = {"--json": common.json, "--csv": output.csv, "--ids": output.ids}
    chosen = [name for name, given in forms.items() if given]
    if len(chosen) > 1:
        raise InputError(f"`{chosen[0]}` and `{chosen[1]}` are two output formats; use one")
    if check and offline:
        raise InputError("`--check` needs a server, so leave out `--offline`")
    for name, given in (("--expand", output.expand), ("--facets", output.facets)):
        if given and not common.json:
            raise InputError(f"`{name}` works only with `--json`; add it")


def _checked(filters: Filters, output: Format) -> Query:
    """Return the query for FILTERS.

    Raises:
        InputError: A value is not valid; the message names the flag.
    """
    from dreadnode.catalog.search import Query
    from dreadnode.catalog.view import expansions

    try:
        expansions(output.expand)
        return Query(**asdict(filters))
    except CatalogQueryError as error:
        text = str(error)
        for name in Query.__dataclass_fields__:
            text = text.replace(f"`{name}`", f"`--{name.replace('_', '-')}`")
        raise InputError(text.replace("`expand`", "`--expand`")) from None


def _local(query: Query, expand: str | None, output: Format) -> dict[str, Any]:
    from dreadnode.catalog import view
    from dreadnode.catalog.search import run

    answer: dict[str, Any] = view.page(
        run(query, TINKER_MODELS), view.expansions(expand), facets=output.facets
    )
    return answer


def _from_server(
    query: Query, expand: str | None, output: Format, common: Common
) -> dict[str, Any]:
    params = {name: value for name, value in asdict(query).items() if value is not None}
    if not params["offset"]:
        del params["offset"]
    with common.client(scoped=False) as client:
        return client.get_training_catalog(
            **params, expand=expand or None, facets=output.facets or None
        )


def _show(page: dict[str, Any], output: Format, common: Common, *, offline: bool) -> None:
    models = page["models"]
    if offline:
        say(f"catalog of this program, of {CATALOG_AS_OF}; no server was asked")
    if common.json:
        common.out.json(page)
    elif output.csv:
        _csv(models)
    elif output.ids:
        common.out.text(*(model["tinker_id"] for model in models))
    elif models:
        lines, is_whole = _table(models, offline=offline)
        common.out.text(*lines)
        _explain(page, offline=offline)
        if not is_whole:
            say("a wider terminal, `--csv` and `--json` show all columns and whole ids")
    else:
        say("no models match")


def _table(models: list[dict[str, Any]], *, offline: bool) -> tuple[list[str], bool]:
    """Return the table of MODELS, and whether it has all columns: a narrow terminal gets fewer."""
    here = [] if offline else [HERE]
    status = [STATUS] if any(model["status"] != "active" for model in models) else []
    return widest_table(models, [*COLUMNS, *here], [*NARROW, *status, *here], ("model",))


def _explain(page: dict[str, Any], *, offline: bool) -> None:
    """Print what the table does not have: units, discounts, and the age of the HERE column."""
    models, total = page["models"], page["total"]
    lines = ["prices in USD per million tokens"]
    if any(model.get("promo") for model in models):
        lines.append("* discount that can end without notice")
    engine = page.get("engine") or {}
    if not offline and engine.get("age_seconds") is not None:
        lines.append(f"HERE as of {engine['age_seconds']:.0f} s ago")
    say("; ".join(lines))
    if engine.get("detail"):
        say(f"the server does not know what its engine can train: {engine['detail']}")
    if total > len(models):
        start = page.get("offset") or 0
        hint(
            f"{start + 1} to {start + len(models)} of {total}; `--limit {min(total, 100)}` shows "
            "more"
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
    """Return ENTRY with nested fields on its own level; unknown values are empty."""
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
    extended = model.get("extended")
    longer = f" (or {extended['context_length'] // 1024}K)" if extended else ""
    return f"{model['context_length'] // 1024}K{longer}"


def _status(model: dict[str, Any]) -> str:
    day = f" {model['retired_on']}" if model.get("retired_on") else ""
    return f"{model['status']}{day}"


def _here(model: dict[str, Any]) -> str:
    served = [model.get("available"), (model.get("extended") or {}).get("available")]
    if model.get("available") is None:
        return "?"
    return "yes" if served[0] else "extended" if served[1] else "no"


def _rate(name: Literal["prefill", "sample", "train"]) -> Column:
    def cell(model: dict[str, Any]) -> str:
        price = (model["pricing"] or {}).get(name)
        if price is None:
            return "unknown"
        return f"{price:.3f}".rstrip("0").rstrip(".") + ("*" if model.get("promo") else "")

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
NARROW: list[Column] = [
    COLUMNS[0],
    ("size", lambda model: f"{model['size_b']:g}B"),
    ("ctx", lambda model: f"{model['context_length'] // 1024}K"),
    _rate("sample"),
    _rate("train"),
]
"""The columns in a terminal that is too narrow for all."""
STATUS: Column = ("status", lambda model: model["status"])
HERE: Column = ("here", _here)
