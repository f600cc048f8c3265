"""`dn train plot`, `job.metrics_frame()` and `job.plot()`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode.training.jobs import TrainingJob
from dreadnode.training.metric_series import Series, smoothed, thinned
from inline_snapshot import snapshot

Dn = Callable[[str], str]
METRICS = {
    "steps": [1, 2, 3, 4],
    "train/loss": [4.0, None, 2.0, 1.0],
    "eval/steps": [2, 4],
    "eval/loss_history": [3.0, 1.5],
    "eval/loss": 1.5,
}


@pytest.fixture
def jobs(api: Any, make_job: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    api.jobs = [make_job(name="first \x1b[31m", metrics=METRICS)]
    return api.jobs  # type: ignore[no-any-return]


def stdout(said: str) -> str:
    return said.partition("--- stdout\n")[2].partition("--- stderr\n")[0]


def test_a_chart_shows_the_loss_with_its_evaluations_in_the_width_of_the_terminal(
    dn: Dn, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    shown = dn("train plot last")

    assert max(map(len, shown.splitlines())) <= 40
    assert "\x1b" not in shown
    assert shown.replace("\u2800", " ") == snapshot("""\
exit: 0
--- stdout
train/loss
  4 ┤a⠢⣀                                \n\
    │   ⠑⠢⣀                             \n\
    │      ⠑⠢⣀                          \n\
    │         ⠑⠢⡀                       \n\
    │           o⠑⠤⡀                    \n\
    │              ⠈⠑⠤⡀                 \n\
2.5 ┤                 ⠈⠑⠤⡀              \n\
    │                    ⠈⠑⠤a           \n\
    │                       ⠈⠑⠤⡀        \n\
    │                          ⠈⠒⢄⡀    o
    │                             ⠈⠒⢄   \n\
  1 ┤                                ⠉⠢⢄
    └───────────────────────────────────
     1                                 4
  a  first \\u001b[31m (01900001): train…
  o  first \\u001b[31m (01900001): eval/…
--- stderr
""")


def test_a_metric_of_several_jobs_is_smoothed_and_printed_as_json(dn: Dn, jobs: Any) -> None:
    shown = dn("train plot last last --metric loss --metric eval/loss --smooth 2 --json")

    assert [
        (each["metric"], each["steps"], each["values"]) for each in json.loads(stdout(shown))
    ] == [
        *[("train/loss", [1.0, 3.0, 4.0], [4.0, 3.0, 1.5])] * 2,
        *[("eval/loss_history", [2.0, 4.0], [3.0, 2.25])] * 2,
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train plot last --metric train/los", "has no history of the metric `train/los`; it has"),
        ("train plot last --smooth 0", "`--smooth` must be at least 1, not 0"),
        ("train plot last --out chart.pdf", "an image is a .png or .svg file, not `chart.pdf`"),
        ("train plot last --out missing/chart.svg", "cannot be written: No such file"),
    ],
)
def test_what_cannot_be_plotted_is_refused_in_one_sentence(
    dn: Dn, jobs: Any, line: str, said: str
) -> None:
    shown = dn(line)

    assert shown.startswith(("exit: 1", "exit: 2"))
    assert said in shown
    assert stdout(shown) == ""


def test_images_are_written_as_png_and_svg(dn: Dn, jobs: Any, tmp_path: Path) -> None:
    for name in ("chart.png", "chart.svg"):
        assert dn(f"train plot last --out {tmp_path / name}").startswith("exit: 0")

    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "chart.svg").read_text()


def test_without_matplotlib_an_image_names_what_to_install(
    dn: Dn, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    assert "install it with `pip install matplotlib`" in dn("train plot last --out chart.png")
    with pytest.raises(ImportError, match="pip install matplotlib"):
        TrainingJob.model_validate(jobs[0]).plot()


def test_a_notebook_gets_columns_of_one_length_and_a_plot(jobs: Any) -> None:
    from matplotlib.figure import Figure

    job = TrainingJob.model_validate(jobs[0])
    axes = Figure().add_subplot()

    assert job.metrics_frame() == {
        "step": [1, 2, 3, 4],
        "train/loss": [4.0, None, 2.0, 1.0],
        "eval/loss_history": [None, 3.0, None, 1.5],
    }
    assert job.plot(axes=axes) is axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[4.0, 2.0, 1.0], [3.0, 1.5]]


def test_a_job_without_metrics_cannot_be_plotted_yet(
    make_job: Callable[..., dict[str, Any]],
) -> None:
    job = TrainingJob.model_validate(make_job())

    assert job.metrics_frame() == {"step": []}
    with pytest.raises(ValueError, match="has no history of the metric `train/loss` yet"):
        job.plot()


def test_thinning_keeps_each_minimum_and_maximum_and_smoothing_the_mean() -> None:
    values = [math.sin(n / 9) for n in range(10_000)]
    values[4321], values[8765] = 9.0, -9.0
    series = Series(range(10_000), values)

    thin = thinned(series, 100)

    assert len(thin.values) <= 200
    assert (max(thin.values), min(thin.values)) == (9.0, -9.0)
    assert list(thin.steps) == sorted(thin.steps)
    assert smoothed(Series([1, 2, 3], [1.0, 3.0, 5.0]), 2).values == [1.0, 2.0, 4.0]
