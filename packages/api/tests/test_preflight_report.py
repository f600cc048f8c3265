"""The report on a job that does not exist yet: its data, its warnings and its price."""

# ruff: noqa: E501 - a sentence is as wide as it is

from typing import Any

import pytest
from dreadnode_api.training.warnings import warnings_of
from inline_snapshot import snapshot

MODEL = "Qwen/Qwen3-8B"
PREFLIGHT = "/org/acme/ws/lab/training/preflight"


def sft(**changes: Any) -> dict[str, Any]:
    config = {
        "dataset_ref": {"name": "rows", "version": "1.0.0"},
        "system_prompt": '{"planned": true}',
        **changes.pop("config", {}),
    }
    return {"model": MODEL, "trainer_type": "sft", "config": config, **changes}


async def test_a_report_has_the_price_and_creates_nothing(api: Any) -> None:
    await api.push()

    found = await api("POST", PREFLIGHT, json=sft(config={"epochs": 2}))

    assert found.status_code == 200, found.text
    report = found.json()
    assert report["model"]["tinker_id"] == MODEL
    assert report["config"]["epochs"] == 2
    assert report["report"]["usable"] == 8
    assert report["report"]["shown"]["row"] == 1
    assert report["is_paid"] is False
    assert report["price"]["at_most"] == snapshot(
        {
            "tokens": {"prefill": 0, "cached_prefill": 0, "sample": 0, "train": 144},
            "usd_by_kind": {
                "prefill": "0",
                "cached_prefill": "0",
                "sample": "0",
                "train": "0.00006336",
            },
            "usd": "0.00006336",
        }
    )
    assert report["price"]["is_exact"] is True
    assert await api.count() == 0


async def test_a_job_keeps_its_warnings_and_its_price(api: Any) -> None:
    await api.push()

    job = await api.job(**sft(config={"epochs": 20, "learning_rate": 0.1}))

    kept = job["preflight"]
    assert "shown" not in kept
    assert kept["price"]["at_most"]["tokens"]["train"] == 1440
    assert kept["price"]["rates"]["as_of"] is not None
    assert [each["code"] for each in kept["warnings"]] == snapshot(
        ["learning_rate", "no_evaluation_data", "few_rows", "many_epochs"]
    )


async def test_what_refuses_a_job_refuses_its_report(api: Any) -> None:
    await api.push()
    body = sft(model="Qwen/Qwen3-8", config={"steps": 1})

    report, job = await api("POST", PREFLIGHT, json=body), await api("POST", api.jobs, json=body)

    assert report.status_code == job.status_code == 422
    assert report.json()["detail"] == job.json()["detail"]


async def test_a_row_that_cannot_be_shown_is_refused(api: Any) -> None:
    await api.push()

    found = await api("POST", f"{PREFLIGHT}?show=900", json=sft())

    assert found.status_code == 422
    assert found.json()["detail"].startswith("Row 900 cannot be shown")


async def test_models_are_compared_the_cheapest_first_and_retired_ones_last(api: Any) -> None:
    await api.push()

    found = await api("POST", f"{PREFLIGHT}?compare=true", json=sft())

    models = found.json()["comparison"]
    order = [
        (each["status"] == "retired", each["price"]["at_most"]["usd"] is None) for each in models
    ]
    prices = [
        float(each["price"]["at_most"]["usd"])
        for each in models
        if each["status"] == "active" and each["price"]["at_most"]["usd"] is not None
    ]
    own = next(each for each in models if each["model"] == MODEL)
    assert order == sorted(order)
    assert prices == sorted(prices)
    assert (own["available"], own["fits"], own["price"]["is_exact"]) == (True, True, True)
    assert own["price"]["at_most"] == found.json()["price"]["at_most"]
    assert any(each["model"].endswith(":peft:131072") for each in models)


async def test_a_rehearsal_shows_what_the_job_itself_would_cost(api: Any) -> None:
    await api.push()

    found = (await api("POST", PREFLIGHT, json=sft(rehearse=True))).json()

    assert found["is_paid"] is False
    assert found["price"]["is_exact"] is False
    assert found["price"]["tokenizer"]["error"] > 0
    assert found["price"]["rates"]["model"] == MODEL


async def test_only_a_rented_engine_is_paid_and_a_rehearsal_never(api: Any) -> None:
    await api.push()
    services = api.app.state
    services.settings = services.settings.model_copy(
        update={"engine_key": "", "tinker_api_key": "tml-1"}
    )

    real = await api("POST", PREFLIGHT, json=sft())
    rehearsal = await api("POST", PREFLIGHT, json=sft(rehearse=True))

    assert real.json()["is_paid"] is True
    assert (rehearsal.json()["is_paid"], rehearsal.json()["rehearsal"]) == (False, True)


async def test_a_reader_cannot_run_checks(api: Any) -> None:
    await api.push()

    refused = await api("POST", PREFLIGHT, key="reader", json=sft())

    assert refused.status_code == 403


CONFIG: dict[str, Any] = {
    "learning_rate": 4e-4,
    "lora_rank": 16,
    "max_sequence_length": 2048,
    "eval_dataset_ref": {"name": "exam", "version": "1"},
}
PLAN = {"steps": 10, "rows_per_epoch": 160, "rows_per_step": 16}
REPORT: dict[str, Any] = {
    "usable": 160,
    "truncated": 0,
    "usual_learning_rate": 4.7e-4,
    "plan": PLAN,
}
SHARED = {"shared": {"count": 7, "rows": [2, 3, 4, 5, 6]}}
TRIED = [
    {"row": 1, "kind": "right", "reward": 0.0, "error": None},
    {"row": 1, "kind": "wrong", "reward": 1.0, "error": None},
    {"row": 1, "kind": "empty", "reward": None, "error": "it raised ValueError"},
]


@pytest.mark.parametrize(
    ("kind", "config", "report", "expected"),
    [
        ("sft", {}, {}, snapshot([])),
        (
            "sft",
            {"learning_rate": 0.01},
            {},
            snapshot(
                [
                    "`learning_rate` is 0.01, far above the 0.0005 that is usual for LoRA of this model, which holds for rank 16 too; the loss may diverge"
                ]
            ),
        ),
        (
            "sft",
            {"learning_rate": 1e-6, "lora_rank": 64},
            {},
            snapshot(
                [
                    "`learning_rate` is 1e-06, far below the 0.0005 that is usual for LoRA of this model, which holds for rank 64 too; the model may hardly learn"
                ]
            ),
        ),
        ("sft", {"learning_rate": 1.0}, {"usual_learning_rate": None}, snapshot([])),
        ("rl", {"learning_rate": 1e-6, "reward_recipe": {}}, {}, snapshot([])),
        (
            "sft",
            {"eval_dataset_ref": None},
            {},
            snapshot(
                [
                    "There is no evaluation data, so overfitting stays unseen; add some with `eval_dataset_ref` (`--eval-dataset`)"
                ]
            ),
        ),
        (
            "sft",
            {},
            {"truncated": 3},
            snapshot(
                [
                    "3 of 160 rows are longer than `max_sequence_length`, 2,048 tokens, and are cut at their end"
                ]
            ),
        ),
        (
            "sft",
            {},
            {
                "duplicates": {
                    "count": 3,
                    "rows": [
                        {"row": 5, "of": {"row": 1}},
                        {"row": 1, "dataset": "trajectory dataset 1", "of": {"row": 2}},
                    ],
                }
            },
            snapshot(
                [
                    "3 of 160 rows repeat another one: row 5 repeats row 1, row 1 of the trajectory dataset 1 repeats row 2"
                ]
            ),
        ),
        (
            "sft",
            {},
            {"evaluation": SHARED},
            snapshot(
                [
                    "7 rows of the evaluation data are training data as well, so that the evaluation looks better than it is: rows 2, 3, 4, 5, 6 …"
                ]
            ),
        ),
        (
            "sft",
            {},
            {"plan": PLAN | {"rows_per_epoch": 5, "steps": 5}},
            snapshot(["A step takes 16 rows, and there are only 5; lower `batch_size`"]),
        ),
        (
            "rl",
            {},
            {"plan": PLAN | {"rows_per_epoch": 5}},
            snapshot(
                [
                    "A step takes 16 prompts, and there are only 5, so that steps repeat them; lower `num_rollouts`"
                ]
            ),
        ),
        (
            "sft",
            {},
            {"plan": PLAN | {"rows_per_epoch": 20, "steps": 40}},
            snapshot(
                [
                    "The job goes through 20 rows 20 times and may learn them by heart; use fewer epochs or more rows"
                ]
            ),
        ),
        (
            "rl",
            {},
            {"reward_samples": TRIED},
            snapshot(
                [
                    "The reward failed on 1 of 3 completions that it was tried on, first on the empty one of row 1: it raised ValueError",
                    "A wrong completion of row 1 gets a reward of 1 and the right one 0; check the reward",
                ]
            ),
        ),
    ],
)
def test_a_warning_says_its_reason_and_what_to_do(
    kind: str, config: dict[str, Any], report: dict[str, Any], expected: list[str]
) -> None:
    found = warnings_of(kind, CONFIG | config, REPORT | report)

    assert [each["message"] for each in found] == expected
