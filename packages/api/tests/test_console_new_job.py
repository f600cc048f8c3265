"""The form of a new job in the console."""

import html
import re
import shlex
import tomllib
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MODEL = "Qwen/Qwen3-8B"
VALUES = {"trainer_type": "sft", "model": MODEL, "dataset_ref": "rows@1.0.0", "epochs": "2"}


def texts(page: Any) -> list[str]:
    """The texts to copy: the command and the job file."""
    return [
        html.unescape(each) for each in re.findall(r"<pre[^>]*>(.*?)</pre>", page.text, re.DOTALL)
    ]


async def test_the_form_has_every_setting_of_every_kind_of_job(console: Any) -> None:
    await console.sign_in("member")
    for kind in ("sft", "rl", "eval"):
        fields = (await console.api.client.get("/openapi.json")).json()["components"]["schemas"]
        known = {
            name
            for name, field in fields[f"{kind.title()}Config"]["properties"].items()
            if not field.get("description", "").startswith("Not offered")
        }

        page = await console.get(f"/ws/lab/new-job?kind={kind}&model={MODEL}")

        named = set(re.findall(r'name="(\w+)"', page.text))
        assert {name for name in known - named if f"{name}_source" not in named} == set()
        assert f'value="{MODEL}"' in page.text or f"{MODEL}</textarea>" in page.text


async def test_the_check_shows_the_same_job_as_command_and_file(api: Any, console: Any) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job")
    sent = VALUES | {
        "learning_rate": "2e-4",
        "shuffle": "false",
        "name": "it's a <script>",
        "tags": "one\ntwo words",
        "mode": "rehearse",
        "system_prompt": "--brief",
    }

    checked = await console.post("/ws/lab/new-job/check", page, **sent)
    command, toml = texts(checked)[-2:]

    assert checked.status_code == 200, console.text(checked)
    assert "<script>" not in checked.text
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["dn", "train", "sft"]
    assert {"--no-shuffle", "--rehearse", "--system-prompt=--brief"} <= set(words)
    assert words[words.index("--name") + 1] == "it's a <script>"
    assert words[words.index("--dataset") + 1] == "rows@1.0.0"
    assert [words[n + 1] for n, word in enumerate(words) if word == "--tag"] == ["one", "two words"]
    job = tomllib.loads(toml)
    assert job["config"]["learning_rate"] == 2e-4
    assert job["config"]["epochs"] == 2
    assert job["rehearse"] is True
    assert await api.count() == 0


async def test_the_form_submits_one_job_however_often_it_is_sent(api: Any, console: Any) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job")
    sent = VALUES | {"key": re.findall(r'name="key" value="([^"]+)"', page.text)[0]}

    first = await console.post("/ws/lab/new-job", page, **sent)
    again = await console.post("/ws/lab/new-job", page, **sent)
    other = await console.post("/ws/lab/new-job", page, **(sent | {"epochs": "3"}))
    copied = await console.get(f"/ws/lab/new-job?copy={other.headers['location'].split('/')[-1]}")

    assert first.status_code == 303
    assert first.headers["location"] == again.headers["location"] != other.headers["location"]
    assert await api.count() == 2
    assert re.search(r'name="epochs" value="3"', copied.text)
    assert 'value="rows@1.0.0"' in copied.text


async def test_a_reinforcement_learning_job_has_its_reward_and_parameters(
    api: Any, console: Any
) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job?kind=rl")
    sent = {
        "trainer_type": "rl",
        "model": MODEL,
        "prompt_dataset_ref": "rows@1.0.0",
        "algorithm": "importance_sampling",
        "reward_recipe": "contains_v1",
        "reward_params": '{"needle": "yes"}',
        "stop": "END\nSTOP",
    }

    checked = await console.post("/ws/lab/new-job/check", page, **sent)
    command, toml = texts(checked)[-2:]

    words = shlex.split(command.replace("\\\n", " "))
    assert words[words.index("--reward-params") + 1] == '{"needle": "yes"}'
    assert words.count("--stop") == 2
    reward = tomllib.loads(toml)["config"]["reward_recipe"]
    assert reward == {"name": "contains_v1", "params": {"needle": "yes"}}


CODE = "\n\ndef reward(completion, row):\n    return len(completion) < 3  # 'short' & \"sweet\"\n"
TOOLS = "def tools():\n    return []\n"


async def test_a_reward_and_an_environment_in_python_survive_the_form_and_a_copy(
    api: Any, console: Any
) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job?kind=rl")
    sent = {
        "trainer_type": "rl",
        "model": MODEL,
        "prompt_dataset_ref": "rows@1.0.0",
        "algorithm": "ppo",
        "reward_params": '{"filename": "short.py", "timeout_sec": 5}',
        "reward_source": CODE.replace("\n", "\r\n"),
        "environment_source": TOOLS,
        "max_turns": "3",
    }

    checked = await console.post("/ws/lab/new-job/check", page, **sent)
    command, toml = texts(checked)[-2:]
    made = await console.post("/ws/lab/new-job", page, **sent)
    job_id = made.headers["location"].rsplit("/", 1)[1]
    config = (await api("GET", f"{api.jobs}/{job_id}")).json()["config"]
    copied = await console.get(f"/ws/lab/new-job?copy={job_id}")
    limited = await console.post(
        "/ws/lab/new-job/check", page, **sent, environment_params='{"timeout_sec": 9}'
    )

    params = {"filename": "short.py", "timeout_sec": 5, "source": CODE}
    assert config["reward_recipe"] == {"name": "python_v1", "params": params}
    assert config["environment"] == {"name": "python_v1", "params": {"source": TOOLS}}
    assert tomllib.loads(toml)["config"]["reward_recipe"]["params"] == params
    words = shlex.split(command.replace("\\\n", " "))
    assert words[words.index("--reward-recipe") + 1] == "short.py"
    assert words[words.index("--reward-params") + 1] == '{"timeout_sec": 5}'
    assert words[words.index("--environment") + 1] == "environment.py"
    assert "Save the code as short.py and environment.py first" in console.text(checked)
    filled = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", copied.text, re.DOTALL)
    assert [html.unescape(each) for each in filled] == [CODE, TOOLS]
    assert texts(limited)[-2] == "dn train submit job.toml"


async def test_an_evaluation_is_submitted_and_copied(api: Any, console: Any) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job?kind=eval")
    sent = {"trainer_type": "eval", "models": MODEL, "dataset_ref": "rows@1.0.0", "limit": "5"}

    checked = await console.post("/ws/lab/new-job/check", page, **sent)
    made = await console.post("/ws/lab/new-job", page, **sent)
    job_id = made.headers["location"].rsplit("/", 1)[1]
    job = (await api("GET", f"{api.jobs}/{job_id}")).json()
    copied = await console.get(f"/ws/lab/new-job?copy={job_id}")
    of_job = await console.get(made.headers["location"])

    assert checked.status_code == 200, console.text(checked)
    assert (job["trainer_type"], job["config"]["limit"]) == ("eval", 5)
    words = shlex.split(texts(checked)[-2].replace("\\\n", " "))
    assert words[:4] == ["dn", "train", "eval", MODEL]
    assert f"{MODEL}</textarea>" in copied.text
    assert 'name="limit" value="5"' in copied.text
    assert f'href="/ws/lab/new-job?copy={job_id}"' in of_job.text
    assert f"{job_id}/chat" not in of_job.text


REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"model": "Qwen/Qwen3-8"}, 422, "Did you mean one of"),
    ({"dataset_ref": "none@1.0.0"}, 422, "no dataset none"),
    ({"dataset_ref": "rows"}, 422, "config.dataset_ref.version"),
    ({"epochs": "many"}, 422, "config.epochs : input should be a valid integer"),
    ({"lora_rank": "0"}, 422, "config.lora_rank"),
    ({"learning_rate": "NaN"}, 422, "config.learning_rate"),
    ({"rehearse_steps": "5"}, 422, "rehearse_steps has no effect without"),
    ({"trainer_type": "none"}, 422, "trainer_type"),
]


async def test_what_the_api_refuses_is_a_sentence_above_the_filled_in_form(
    api: Any, console: Any
) -> None:
    await api.push()
    await console.sign_in("member")
    page = await console.get("/ws/lab/new-job")
    for changes, status, sentence in REFUSED:
        checked = await console.post("/ws/lab/new-job/check", page, **(VALUES | changes))
        answer = await console.post("/ws/lab/new-job", page, **(VALUES | changes))

        assert checked.status_code == answer.status_code == status
        assert sentence in console.text(answer)
        assert sentence in html.unescape(console.text(checked))
        for name, value in changes.items():
            if name != "trainer_type":
                assert f'name="{name}" value="{value}"' in answer.text
    assert await api.count() == 0


async def test_readers_and_other_organizations_do_not_get_the_form(api: Any, console: Any) -> None:
    await api.push()
    job = await api.job()
    await console.sign_in("reader")
    reader = await console.get("/ws/lab/new-job")
    listed = await console.get("/ws/lab/jobs")
    api.client.cookies.clear()
    await console.sign_in("stranger")
    copied = await console.get(f"/ws/lab/new-job?copy={job['id']}")
    page = await console.get("/ws/lab/new-job")
    forged = await api.client.post("/ws/lab/new-job", data=VALUES)

    assert reader.status_code == 403
    assert "New job" not in listed.text
    assert copied.status_code == 404
    assert "rows@1.0.0" not in page.text
    assert forged.status_code == 403
