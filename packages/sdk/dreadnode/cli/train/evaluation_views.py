"""How the result of an evaluation is shown to people, and written as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dreadnode.cli.output import Column, Output, count, show
from dreadnode.errors import UnusableFile
from dreadnode.lazy_types import evaluations

CHANGED = 3
"""How many rows that changed most the table shows; `--json` has all of them."""
TEXT = 70
"""How many characters of a completion the table shows."""
METHODS = {
    "student_t": "Student's t over rows",
    "student_t_of_ratio": "Student's t over rows, of total loss to total tokens",
    "wilson": "Wilson's for rewards of 0 and 1",
    "student_t_of_paired_differences": "Student's t over the differences of rows",
}
COLUMNS = ("row", "model", "loss", "loss_tokens", "sample", "reward", "completion")
MODELS: tuple[Column, ...] = (
    ("model", lambda model: f"{model.name} (stand-in)" if model.rehearsal else model.name),
    ("step", lambda model: model.step),
    ("loss", lambda model: _figure(model.loss)),
    ("reward", lambda model: _figure(model.reward)),
    ("rows", lambda model: model.rows),
    ("truncated", lambda model: model.truncated or None),
    ("unfinished", lambda model: model.unfinished or None),
)


def show_result(result: evaluations.EvaluationResult, out: Output) -> None:
    """Print RESULT as tables."""
    out.rows(result.models, MODELS, none="no models", shrink=("model",))
    for each in result.comparisons:
        out.text("", *_comparison(result, each))
    figures = [f for m in result.models for f in (m.loss, m.reward) if f is not None]
    figures += [each.difference for each in result.comparisons]
    methods = dict.fromkeys(METHODS.get(f.method, f.method) for f in figures)
    split = f" ({result.split})" if result.split else ""
    out.text(
        "",
        f"{count(result.rows, 'row')} of {result.dataset}{split}; {result.confidence:.0%} "
        f"confidence intervals: {'; '.join(methods)}",
    )


def _figure(figure: evaluations.EvaluationFigure | None, form: str = ".3f") -> str:
    if figure is None:
        return ""
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def _comparison(
    result: evaluations.EvaluationResult, compared: evaluations.ModelComparison
) -> Iterable[str]:
    model, baseline = result.models[compared.model], result.models[compared.baseline]
    yield (
        f"{model.name} against {baseline.name}, {compared.metric}: "
        f"{_figure(compared.difference, '+.3f')}; {compared.wins:,} better, "
        f"{compared.ties:,} equal, {compared.losses:,} worse"
    )
    for each in compared.changed[:CHANGED]:
        question = f": {_short(each.question)}" if each.question else ""
        yield f"  row {each.row}: {each.baseline:.4g} -> {each.value:.4g}{question}"
        if each.completion is not None or each.baseline_completion is not None:
            yield f"    before: {_short(each.baseline_completion)}"
            yield f"    now:    {_short(each.completion)}"


def _short(text: str | None) -> str:
    if text is None:
        return "(the reasoning never ended)"
    line = show(text)
    return line if len(line) <= TEXT else f"{line[: TEXT - 1]}…"


def write_csv(file: Path, rows: Iterable[evaluations.EvaluatedRow]) -> None:
    """Write a line for each completion, or for each row and model without completions.

    Raises:
        UnusableFile: FILE exists or cannot be written.
    """
    import csv

    try:
        with file.open("x", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in rows:
                start = (row.row, row.model, row.loss, row.loss_tokens)
                completions = list(zip(row.rewards, row.completions, strict=True))
                for sample, (reward, text) in enumerate(completions, 1):
                    writer.writerow([*start, sample, reward, text])
                if not completions:
                    writer.writerow([*start, "", "", ""])
    except FileExistsError:
        raise UnusableFile(f"{file} already exists; name another file") from None
    except OSError as error:
        raise UnusableFile(f"{file} cannot be written: {error.strerror}") from error
