"""The pages of jobs over plain HTTP, on both databases."""

import asyncio
import math
import re
from typing import Any

import pytest
from dreadnode_api.console.thinning import MetricHistory, joined_lists, thin
from sqlalchemy import event


async def report(api: Any, key: str, job_id: str, kind: str, **more: Any) -> None:
    answer = await api(
        "POST", f"{api.jobs}/{job_id}/progress", key=key, json={"event_type": kind, **more}
    )
    assert answer.status_code == 200, answer.text


async def running(api: Any, **changes: Any) -> tuple[dict[str, Any], str]:
    """Create a job and start it; return it with its sandbox's key."""
    await api.push()
    await api.job(**changes)
    job, key = await api.start()
    await report(api, key, job["id"], "training_start", data={"start": 0})
    return job, key


async def step(api: Any, key: str, job_id: str, number: int, loss: float | None = 1.0) -> None:
    await report(
        api,
        key,
        job_id,
        "step_complete",
        message=f"step {number}",
        metrics={"steps": [number], "train/loss": [loss]},
        data={"step": number, "steps": 10, "seconds_left": 5.0},
    )


async def test_the_page_of_a_job_shows_its_state_settings_data_and_log(
    api: Any, console: Any
) -> None:
    job, key = await running(api, name="harbour", config={"learning_rate": 3e-4})
    await step(api, key, job["id"], 3)
    await console.sign_in("reader")

    page = await console.get(f"/ws/lab/jobs/{job['id']}")

    shown = console.text(page)
    assert "harbour" in shown
    assert "step 3 of 10" in shown
    assert "about 5 s left" in shown
    assert "8 of 8 usable" in shown
    assert "step 3" in shown
    assert re.search(r"<code>learning_rate</code></dt>\s*<dd>0.0003", page.text)
    assert re.search(r'<code>adam_beta1</code></dt>\s*<dd class="quiet">', page.text)
    assert "Cancel job" not in page.text


async def test_a_job_of_another_organization_does_not_exist(api: Any, console: Any) -> None:
    job, _ = await running(api)
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in("stranger")

    pages = [
        await console.get(f"{path}{part}") for part in ("", "/live", "/series", "/log", "/row")
    ]
    listed = await console.get("/ws/lab/jobs")
    posted = await console.post(f"{path}/cancel", listed)
    unknown = await console.get("/ws/lab/jobs/none")

    assert [page.status_code for page in [*pages, posted, unknown]] == [404] * 7
    assert console.text(pages[0]).replace(job["id"], "none") == console.text(unknown)


async def test_text_of_others_stays_text(api: Any, console: Any) -> None:
    script = "<script>alert(1)</script>"
    job, key = await running(api, name=script, tags=[script])
    await report(api, key, job["id"], "log", message=script)
    await report(
        api, key, job["id"], "checkpoint_saved", artifacts={"latest_checkpoint": "<script>"}
    )
    await console.sign_in()

    page = await console.get(f"/ws/lab/jobs/{job['id']}")
    listed = await console.get("/ws/lab/jobs")
    live = (await console.get(f"/ws/lab/jobs/{job['id']}/live")).json()

    for text in (page.text, listed.text, *live["parts"].values()):
        assert "<script>" not in text
    assert "&lt;script&gt;" in page.text
    assert "&lt;script&gt;" in live["parts"]["checkpoints"]


async def test_a_follower_gets_each_point_and_each_line_once(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode_api.console.job_feed.FRESH_SECONDS", 0.0)
    job, key = await running(api)
    await console.sign_in()
    path = f"/ws/lab/jobs/{job['id']}"
    await step(api, key, job["id"], 1, 0.5)
    whole = (await console.get(f"{path}/series")).json()
    await step(api, key, job["id"], 2, 0.25)
    await step(api, key, job["id"], 3, None)

    first = (await console.get(f"{path}/live?after={whole['number']}")).json()
    again = (
        await console.get(f"{path}/live?after={first['number']}&digest={first['digest']}")
    ).json()

    assert whole["series"] == {"train/loss": [[1], [0.5]]}
    assert first["points"] == {"train/loss": [[2, 3], [0.25, None]]}
    assert [line["message"] for line in first["lines"]] == ["step 2", "step 3"]
    assert "step 3" in re.sub(r"<[^>]+>", "", first["parts"]["state"])
    assert (again["lines"], again["points"], "reset" in again) == ([], {}, False)


async def test_a_follower_that_missed_too_much_loads_everything_again(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode_api.console.job_feed.FRESH_SECONDS", 0.0)
    job, key = await running(api)
    await console.sign_in()
    path = f"/ws/lab/jobs/{job['id']}"
    before = (await console.get(f"{path}/series")).json()["number"]
    await step(api, key, job["id"], 1)
    steps, losses = [1, 2, 3], [3.0, 2.0, 1.0]
    await report(
        api, key, job["id"], "training_end", metrics={"steps": steps, "train/loss": losses}
    )

    live = (await console.get(f"{path}/live?after={before}")).json()
    whole = (await console.get(f"{path}/series")).json()
    ahead = (await console.get(f"{path}/live?after=100000")).json()

    assert (live["reset"], live["ended"]) == (True, True)
    assert whole["series"] == {"train/loss": [steps, losses]}
    assert ahead["reset"] is True


async def test_five_hundred_followers_cost_the_database_what_one_costs(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode_api.console.job_feed.FRESH_SECONDS", 0.0)
    job, key = await running(api)
    await step(api, key, job["id"], 1)
    await console.sign_in()
    counted: list[str] = []
    event.listen(
        api.database.engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: counted.append(arguments[2]),
    )

    async def statements(followers: int) -> int:
        counted.clear()
        path = f"/ws/lab/jobs/{job['id']}/live"
        answers = await asyncio.gather(*(console.get(path) for _ in range(followers)))
        assert {answer.status_code for answer in answers} == {200}
        # The session's token is looked up again every 0.4 s, whoever asks.
        return len([each for each in counted if "browser_sessions" not in each])

    await statements(1)
    one = await statements(1)
    many = await statements(500)

    assert one > 0
    # All that ask at the same time share one reading; on a slow machine a few are late.
    assert many <= 3 * one


async def test_the_log_is_searched_filtered_and_paged(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode_api.console.job_page.LINES", 2)
    job, key = await running(api)
    for number in range(3):
        await report(api, key, job["id"], "log", message=f"Line {number} 100%", level="warning")
    await console.sign_in()
    path = f"/ws/lab/jobs/{job['id']}/log"

    def messages(page: Any) -> list[str]:
        return re.findall(r'<span class="text">([^<]*)</span>', page.text)

    last = await console.get(path)
    earlier = re.search(r'hx-get="([^"]+)"', last.text)
    assert earlier is not None
    before = await console.get(earlier[1].replace("&amp;", "&"))
    found = await console.get(f"{path}?query=line+1+100%25&level=info")
    errors = await console.get(f"{path}?level=error")

    assert messages(last) == ["Line 1 100%", "Line 2 100%"]
    assert messages(before)[-1] == "Line 0 100%"
    assert messages(found) == ["Line 1 100%"]
    assert "No line matches" in errors.text


def rollouts(step: int) -> dict[str, Any]:
    """Two groups of a step: one that teaches something, and one that does not."""

    def text(value: str) -> dict[str, Any]:
        return {"text": value, "left_out": 0, "rest": ""}

    def completion(number: int, reward: float, advantage: float, **more: Any) -> dict[str, Any]:
        turns = [{"role": "assistant", "content": text(f"<script>{number}</script>")}]
        return {
            "number": number,
            "reward": reward,
            "advantage": advantage,
            "truncated": False,
            "tokens": 3,
            "error": None,
            "turns": turns,
            "turns_total": 1,
            **more,
        }

    common = {"dataset": None, "expected": None, "staleness": 0, "completions_total": 2}
    low, high = completion(1, 0.0, -1.0), completion(2, 1.0, 1.0, truncated=True)
    equal = [completion(3, 0.5, 0.0), completion(4, 0.5, 0.0)]
    groups = [
        {**common, "row": 1, "prompt": text("1 + 1?"), "degenerate": True, "reward_mean": 0.5}
        | {"completions": equal},
        {**common, "row": 2, "prompt": text("2 + 2?"), "degenerate": False, "reward_mean": 0.5}
        | {"completions": [low, high]},
    ]
    return {"step": step, "groups": groups, "groups_total": 8}


async def test_rollouts_are_shown_by_step_in_the_order_that_one_asks_for(
    api: Any, console: Any
) -> None:
    await api.push()
    config = {"algorithm": "ppo", "prompt_dataset_ref": {"name": "rows", "version": "1.0.0"}}
    body = {"model": "Qwen/Qwen3-8B", "trainer_type": "rl", "config": config}
    created = await api("POST", api.jobs, json=body)
    assert created.status_code == 201, created.text
    job, key = await api.start()
    for number in (1, 2):
        await report(api, key, job["id"], "rollouts", rollouts=rollouts(number))
    await console.sign_in("reader")
    path = f"/ws/lab/jobs/{job['id']}/rollouts"

    newest = await console.get(path, **{"HX-Request": "true"})
    first = await console.get(f"{path}?step=1&sort=reward")
    missing = await console.get(f"{path}?step=7")

    def shown(page: Any) -> list[str]:
        return re.findall(r"&lt;script&gt;(\d)&lt;", page.text)

    assert shown(newest) == ["3", "4", "1", "2"]
    assert shown(first) == ["2", "1", "3", "4"] or shown(first) == ["2", "1", "4", "3"]
    assert '<option value="1" selected>' in first.text
    assert "2 of 8 groups" in console.text(first)
    assert first.text.count("degenerate: equal rewards") == 1
    assert first.text.count(">truncated<") == 1
    assert "<script>2" not in first.text
    assert missing.status_code == 404
    assert "has no rollouts of step 7; the nearest steps" in console.text(missing)


async def test_an_evaluation_is_listed_and_shows_its_models_side_by_side(
    api: Any, console: Any
) -> None:
    await api.push()
    config = {"models": ["Qwen/Qwen3-8B"], "dataset_ref": {"name": "rows", "version": "1.0.0"}}
    body = {"trainer_type": "eval", "name": "exam", "config": config}
    assert (await api("POST", api.jobs, json=body)).status_code == 201
    job, key = await api.start()
    loss = {"value": 1.5, "low": 1.0, "high": 2.0, "rows": 8, "method": "student_t"}
    counts = ("completions", "truncated", "unfinished", "reward_errors", "sampled_tokens")
    model = {**job["artifacts"]["models"][0], **dict.fromkeys(counts, 0), "renderer": "fake"}
    model |= {"rows": 8, "loss": loss, "loss_tokens": 9, "reward": None}
    changed = {"row": 3, "baseline": 0.0, "value": 1.0, "question": "<script>?</script>"}
    changed |= {"baseline_completion": None, "completion": None}
    comparison = {"model": 0, "baseline": 0, "metric": "loss", "difference": loss}
    comparison |= {"wins": 5, "ties": 2, "losses": 1, "changed": [changed]}
    result = {"dataset": "rows@1.0.0", "split": "train", "rows": 8, "confidence": 0.95}
    result |= {"models": [model], "comparisons": [comparison]}
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in("reader")

    running = await console.get(path)
    await api("PUT", f"{api.jobs}/{job['id']}/files/evaluation/result.json", key=key, json=result)
    await report(api, key, job["id"], "training_end", metrics={"model_1/loss": 1.5})
    ended = await console.get(path)
    shown = await console.get(f"{path}/evaluation", **{"HX-Request": "true"})
    listed = await console.get("/ws/lab/jobs?trainer_type=eval", **{"HX-Request": "true"})

    assert "The result comes at the end" in console.text(running)
    assert f'hx-get="{path}/evaluation"' in ended.text
    assert "1.5 [1, 2]" in console.text(shown)
    assert "5 better, 2 equal, 1 worse" in console.text(shown)
    assert "&lt;script&gt;" in shown.text
    assert ids(listed) == [job["id"]]


def ids(page: Any) -> list[str]:
    return re.findall(r'<tr id="job-([^"]+)"', page.text)


async def test_cancel_retry_and_clone_do_what_the_api_does(api: Any, console: Any) -> None:
    await api.push()
    job = await api.job(name="one", config={"learning_rate": 3e-4})
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in("member")
    page = await console.get(path)
    cancelled = await console.post(f"{path}/cancel", page)
    again = await console.post(f"{path}/cancel", page)
    retried = await console.post(f"{path}/retry", page, key="a")
    cloned = await console.post(f"{path}/clone", page, key="b")
    twice = await console.post(f"{path}/clone", page, key="b")
    copy = (await api("GET", f"{api.jobs}/{cloned.headers['location'].rsplit('/', 1)[1]}")).json()

    assert cancelled.headers["location"] == path
    assert again.status_code == 409
    assert "already cancelled and cannot be cancelled" in console.text(again)
    assert retried.status_code == cloned.status_code == 303
    assert twice.headers["location"] == cloned.headers["location"]
    assert copy["config"] == job["config"]
    assert (copy["name"], copy["model"]) == ("one", job["model"])


async def test_two_people_who_cancel_at_once_both_see_the_cancelled_job(
    api: Any, console: Any
) -> None:
    job, _ = await running(api)
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in()
    page = await console.get(path)

    answers = await asyncio.gather(*(console.post(f"{path}/cancel", page) for _ in range(2)))
    shown = await console.get(path)

    assert [answer.status_code for answer in answers] == [303, 303]
    assert "Cancellation requested" in console.text(shown)


async def test_a_reader_changes_nothing(api: Any, console: Any) -> None:
    await api.push()
    job = await api.job()
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in("reader")
    page = await console.get(path)

    for action in ("cancel", "retry", "clone", "export"):
        answer = await console.post(f"{path}/{action}", page, key="a", checkpoint="b")
        assert answer.status_code == 403
        assert "This needs the role member" in console.text(answer)
    assert (await api("GET", f"{api.jobs}/{job['id']}")).json()["status"] == "queued"


async def test_a_deleted_job_is_a_sentence_for_those_who_follow_it(api: Any, console: Any) -> None:
    await api.push()
    job = await api.job()
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in()
    before = await console.get(f"{path}/live")
    await api("POST", f"{api.jobs}/{job['id']}/cancel")
    await api("DELETE", f"{api.jobs}/{job['id']}")
    await asyncio.sleep(1.1)

    live = await console.get(f"{path}/live", Accept="application/json")
    page = await console.get(path)

    assert before.status_code == 200
    assert live.status_code == page.status_code == 404
    assert live.json()["detail"].startswith(f"There is no job `{job['id']}`")
    assert f"There is no job {job['id']}" in console.text(page)


async def test_files_of_a_job_can_be_downloaded_and_those_of_others_cannot(
    api: Any, console: Any
) -> None:
    job, key = await running(api)
    put = await api(
        "PUT", f"{api.jobs}/{job['id']}/files/adapter/config.json", key=key, content=b"{}"
    )
    path = f"/ws/lab/jobs/{job['id']}"
    await console.sign_in("reader")
    page = await console.get(path)
    link = re.search(r'href="([^"]+/files/[^"]+)"', page.text)
    assert link is not None
    ours = await console.get(link[1])
    api.client.cookies.clear()
    await console.sign_in("stranger")
    theirs = await console.get(link[1])

    assert put.status_code == 201
    assert ours.content == b"{}"
    assert ours.headers["content-disposition"].startswith("attachment")
    assert theirs.status_code == 404


async def test_the_first_paint_of_a_jobs_page_needs_little(api: Any, console: Any) -> None:
    job, key = await running(api)
    for number in range(1, 30):
        await step(api, key, job["id"], number)
    await console.sign_in()
    packed = {"Accept-Encoding": "gzip"}

    page = await console.get(f"/ws/lab/jobs/{job['id']}", **packed)
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    answers = [await api.client.get(path, headers=packed) for path in loaded]

    sizes = [int(answer.headers["content-length"]) for answer in [page, *answers]]
    assert len(loaded) >= 8
    assert sum(sizes) < 150_000


async def test_a_name_of_wide_characters_and_the_newest_curve_are_in_the_list(
    api: Any, console: Any
) -> None:
    name = "漢" * 200
    job, key = await running(api, name=name)
    for number, loss in enumerate((2.0, None, 1.0, 0.5), start=1):
        await step(api, key, job["id"], number, loss)
    await console.sign_in()

    first = await console.get("/ws/lab/jobs")
    rows = await console.get("/ws/lab/jobs", **{"HX-Request": "true"})
    await step(api, key, job["id"], 5, 0.25)
    newer = await console.get("/ws/lab/jobs", **{"HX-Request": "true"})

    assert name in first.text
    assert "<path" not in first.text.split("<main")[1]
    assert "loss: 2 at first, 0.5 now, between 0.5 and 2" in rows.text
    assert rows.text.count("M") >= 2
    assert "0.25 now" in newer.text


@pytest.mark.parametrize("length", [10, 100_000])
def test_thinned_metrics_keep_every_minimum_and_maximum_and_gap(length: int) -> None:
    values: list[float | None] = [math.sin(at / 50) for at in range(length)]
    values[3], values[length // 2], values[-2] = 50.0, None, -50.0
    history = MetricHistory()
    events = ({"steps": [at], "train/loss": [values[at]]} for at in range(length))
    for lists in joined_lists(events):
        history.add(lists)

    steps, thinned = history.series["train/loss"].points()

    assert len(steps) <= 3 * 256 + 2
    assert steps == sorted(steps)
    assert {50.0, -50.0, None} <= set(thinned)
    assert (steps[0], steps[-1]) == (0, length - 1)
    assert all(values[int(step)] == value for step, value in zip(steps, thinned, strict=True))


def test_metrics_that_are_no_numbers_and_second_names_are_left_out() -> None:
    history = MetricHistory()
    history.add({"steps": [1], "a": ["text"], "train/loss": [1.0], "train_loss": [1.0], "b": 3})
    history.add({"steps": [2], "train/loss": [True], "eval/steps": [2], "eval/loss_history": [5]})

    assert history.to_json() == {
        "train/loss": [[1, 2], [1.0, None]],
        "eval/loss_history": [[2], [5]],
    }


def test_joined_events_give_the_same_metrics_as_single_ones() -> None:
    events = [
        {"steps": [1], "train/loss": [3.0]},
        {"steps": [2], "train/loss": [2.0]},
        {"eval/steps": [2], "eval/loss_history": [2.5]},
        {"steps": [3, 4], "train/loss": [1.0]},
        {"steps": [5], "train/loss": [None]},
    ]
    one, joined = MetricHistory(), MetricHistory()
    for each in events:
        one.add(each)
    for each in joined_lists(events):
        joined.add(each)

    assert joined.to_json() == one.to_json()


def test_thinning_one_step_repeated_keeps_the_last_point() -> None:
    assert thin([1.0] * 3000, [2.0] * 3000, 4)[0][-1] == 1.0
