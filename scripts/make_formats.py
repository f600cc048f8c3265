"""Write docs/reference/formats.md from real runs: every active model, every shape, both writers.

`make tokenizers` fetches what the models' own tokenizers are stood in for by.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import fetch_tokenizers
from dreadnode.training.models import TINKER_MODELS
from dreadnode_runtime.data.renderers import formats
from dreadnode_runtime.data.renderers.cookbook import (
    CookbookWriter,
    PieceTokenizer,
    ReadingTokenizer,
)
from dreadnode_runtime.data.renderers.differences import difference
from dreadnode_runtime.data.renderers.probes import Probe, shapes
from dreadnode_runtime.data.renderers.tokens import Encoder
from dreadnode_runtime.data.renderers.turns import Format
from tinker_cookbook.renderers import get_renderer

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "formats.md"
INTRODUCTION = """# Chat formats

How each active model of the catalog is written and read. `scripts/make_formats.py` writes this page
from real runs; it is not edited by hand.

- A conversation is written by the tokenizer's own chat template where that can write text,
  reasoning and tool calls so that completions are read back. Servers send the same prompt.
- Otherwise a renderer writes: one of ours (`dreadnode/NAME`), which corrects that of
  tinker-cookbook, or tinker-cookbook's. How it differs from the template is a warning at submission
  and on the job, and stands on the model card.
- The tokens before each trained message are those of the prompt that sampling continues. A variant
  that cannot write all trained messages so is replaced for the whole job by the other one.
- "Not compared" means that no package index holds the template of this very model. Packages hold
  those of other versions (Kimi K2, GLM 4.7, DeepSeek V3 and V4), which differ; a tokenizer that
  brings its template is compared when it is loaded.
- Control tokens in the text of a row are encoded as plain text. Servers that do not do so send
  other tokens for such text.

"""


def main() -> None:
    """Write the page."""
    warnings.simplefilter("ignore")
    try:
        fetch_tokenizers.fetch(fetch_tokenizers.folder())
    except fetch_tokenizers.Unfetched as error:
        sys.exit(str(error))
    active = [model.tinker_id for model in TINKER_MODELS if model.status == "active"]
    rows = ["| model | renderer | other variant | written by | trains on | compared with |"]
    rows += ["| --- | --- | --- | --- | --- | --- |"]
    found: dict[str, list[tuple[str, str]]] = {}
    for model in active:
        row, corrected = _model(model)
        rows.append(row)
        found[model] = corrected
    titles = [shape.title for shape in shapes()]
    matrix = [f"| model | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
    details = []
    for model, corrected in found.items():
        if not corrected:
            continue
        by_title = dict(corrected)
        cells = ["corrected" if by_title.get(t) else "same" for t in titles]
        matrix.append(f"| {model} | {' | '.join(cells)} |")
        lines = [f"- {title}: {text}" for title, text in corrected if text]
        if lines:
            details += [f"### {model}", "", *lines, ""]
    parts = [
        INTRODUCTION + "## Models\n",
        "\n".join(rows),
        "\n## What tinker-cookbook's renderers write otherwise\n",
        "`same`: tinker-cookbook's renderer writes this shape as the chat template does.",
        "`corrected`: it does not, and the model is written as the template writes it.\n",
        "\n".join(matrix),
        "",
        "\n".join(details).rstrip(),
    ]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _model(model: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the row of MODEL, and how tinker-cookbook's renderer differs in each shape."""
    wanted = fetch_tokenizers.of_model(model)
    names = formats.names_of(model)
    if wanted is None:
        why = "refused: its renderer package, tml_renderers, is not published"
        return f"| {model} | `{names[0]}` | | {why} | | |", []
    tokenizer = fetch_tokenizers.load(*wanted)
    made = formats.formats_of(names, tokenizer, model)
    template = wanted[1] or "not compared: template not available"
    trains = [
        "; ".join(f"{p.value}: `{name}`" for p in Probe for name in [_first(made, p)] if name)
    ]
    other = f"`{made[1].name}`" if len(made) > 1 else ""
    row = f"| {model} | `{made[0].name}` | {other} | {made[0].source} | {trains[0]} | {template} |"
    if made[0].source != formats.TEMPLATE:
        return row, []
    name = names[0].replace("qwen3_6", "qwen3_5")
    raw = _cookbook(name, tokenizer, model)
    return row, [(s.title, difference(raw, made[0], s) or "") for s in shapes()]


def _first(made: list[Format], probe: Probe) -> str | None:
    return next((each.name for each in made if probe in each.trains), None)


def _cookbook(name: str, tokenizer: Any, model: str) -> Format:
    pieces = PieceTokenizer(tokenizer)
    writer = CookbookWriter(get_renderer(name, pieces, model_name=model), pieces)
    reader = get_renderer(name, ReadingTokenizer(tokenizer), model_name=model)
    return Format(name, formats.COOKBOOK, writer, reader, Encoder(tokenizer))


if __name__ == "__main__":
    main()
