"""What published clients of version 2 need of our answers.

Their types decide: a missing key or a null where they allow none stops every command of theirs, a
level in capitals breaks the log, and a square bracket in a sentence is read as markup.
"""

from typing import Any

import pytest
from dreadnode_api.http.schemas import Response
from dreadnode_api.main import create_app

USER = {"id": str, "email_address": str, "username": str}
ORGANIZATION = {
    "id": str,
    "name": str,
    "key": str,
    "created_at": str,
    "updated_at": str,
    "effective_max_sandbox_runtime_seconds": int,
    "effective_default_sandbox_runtime_seconds": int,
    "platform_max_sandbox_runtime_seconds": int,
    "platform_default_sandbox_runtime_seconds": int,
    "max_sandbox_runtime_source_level": str,
    "default_sandbox_runtime_source_level": str,
}
WORKSPACE = {
    "id": str,
    "name": str,
    "key": str,
    "org_id": str,
    "created_at": str,
    "updated_at": str,
    "is_default": bool,
}
JOB = {
    **dict.fromkeys(
        ("id", "organization_id", "workspace_id", "status", "backend", "trainer_type", "model"), str
    ),
    "created_at": str,
    "trajectory_dataset_refs": list,
    "tags": list,
    "config": dict,
    "metrics": dict,
    "artifacts": dict,
}
RL_CONTEXT = {
    "capability_entry_prompt",
    "task",
    "world",
    "sampled_trajectory_dataset_ref",
    "reward_recipe",
}


def assert_holds(body: dict[str, Any], needed: dict[str, type]) -> None:
    wrong = {key: body.get(key) for key, kind in needed.items() if type(body.get(key)) is not kind}

    assert not wrong


@pytest.fixture(autouse=True)
def as_they_ask(api: Any) -> None:
    """Send the headers that they send."""
    api.client.headers.update(
        {
            "User-Agent": "dreadnode-sdk/2.0.52",
            "Accept": "application/json",
            "X-Dreadnode-Network": "public",
        }
    )


async def test_the_responses_before_every_command_have_the_fields_of_their_types(api: Any) -> None:
    assert_holds((await api("GET", "/user")).json(), USER)
    assert_holds((await api("GET", "/org/acme")).json(), ORGANIZATION)
    assert_holds((await api("GET", "/user/organizations")).json()[0], ORGANIZATION)
    assert_holds((await api("GET", "/org/acme/ws/lab")).json(), WORKSPACE)
    assert_holds((await api("GET", "/org/acme/ws")).json()[0], WORKSPACE)
    assert (await api("GET", "/org/acme/ws/lab/projects")).json() == []


async def test_published_clients_send_their_key_in_a_header_of_its_own(api: Any) -> None:
    asked = await api("GET", "/user", key=None, headers={"X-API-Key": api.keys["reader"]})

    assert asked.json()["username"] == "reader"


async def test_a_missing_project_is_a_404_which_they_tolerate(api: Any) -> None:
    assert (await api("GET", "/org/acme/ws/lab/projects/default")).status_code == 404


async def test_an_unknown_organization_fails_alike_at_each_read(api: Any) -> None:
    said = {
        (await api("GET", path)).json()["detail"]
        for path in ("/org/nowhere", "/org/nowhere/ws/lab", "/org/nowhere/ws")
    }

    assert len(said) == 1


async def test_an_id_may_be_used_instead_of_a_slug(api: Any) -> None:
    path = f"/org/{api.org_id}/ws/{api.workspace_id}/training/jobs"

    assert (await api("GET", path)).status_code == 200


async def test_a_job_created_by_them_has_the_fields_of_their_type(api: Any) -> None:
    await api.push()
    body = {
        "model": "Qwen/Qwen3-8B",
        "capability_ref": {"name": "none", "version": "0.0.0"},
        "tags": [],
        "backend": "tinker",
        "trainer_type": "sft",
        "project_ref": "default",
        "config": {
            "dataset_ref": {"name": "rows", "version": "1.0.0"},
            "trajectory_dataset_refs": [],
            "steps": 2,
        },
    }

    made = await api("POST", api.jobs, json=body)
    job = made.json()

    assert made.status_code == 201, made.text
    assert_holds(job, JOB)
    assert job["capability"]["name"] == "none"
    assert job["dataset_ref"] == body["config"]["dataset_ref"]  # type: ignore[index]
    assert body["config"].items() <= job["config"].items()  # type: ignore[attr-defined]
    assert job["project_ref"] == "default"
    assert_holds((await api("GET", f"{api.jobs}/{job['id']}")).json(), JOB)


async def test_a_page_of_jobs_has_their_four_fields(api: Any) -> None:
    page = (await api("GET", f"{api.jobs}?page=1&page_size=20")).json()

    assert page == {"items": [], "total": 0, "page": 1, "page_size": 20}


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("sort_by=created_at&sort_dir=desc", ["ac", "a", "b"]),
        ("sort_by=created_at&sort_dir=asc", ["b", "a", "ac"]),
        ("sort_by=name&sort_dir=desc", ["b", "ac", "a"]),
    ],
)
async def test_their_list_of_datasets_has_their_order_and_length(
    api: Any, order: str, names: list[str]
) -> None:
    for name in ("b", "a", "ac"):
        await api.push(name)
    path = f"/org/acme/datasets?{order}&page=1&include_public=false"

    whole = (await api("GET", f"{path}&limit=200")).json()
    first = (await api("GET", f"{path}&limit=2")).json()
    found = (await api("GET", f"{path}&limit=200&search=A")).json()

    assert [each["name"] for each in whole["items"]] == names
    assert (whole["total"], whole["page_size"]) == (3, 200)
    assert [each["name"] for each in first["items"]] == names[:2]
    assert (found["total"], {each["name"] for each in found["items"]}) == (2, {"a", "ac"})


async def test_their_parameter_for_public_items_adds_nothing(api: Any) -> None:
    await api.push()
    await api("PUT", "/org/acme/capabilities/desk/1.0.0", json={"prompt": "x"})
    order = "page=1&limit=100&sort_by=created_at&sort_dir=desc&include_public=true"

    capabilities = (await api("GET", f"/org/acme/capabilities?{order}")).json()
    datasets = (await api("GET", f"/org/acme/datasets?{order}")).json()

    assert [each["name"] for each in capabilities["capabilities"]] == ["desk"]
    assert [each["name"] for each in datasets["items"]] == ["rows"]


async def test_the_catalog_has_only_algorithms_known_to_their_type(api: Any) -> None:
    catalog = (await api("GET", "/training/catalog?limit=100")).json()
    algorithms = {a for each in catalog["models"] for a in each["supported_algorithms"]}

    assert catalog.keys() == {"models", "total", "limit"}
    assert algorithms <= {"sft", "importance_sampling", "ppo"}
    assert all(each["size_b"] >= 0.1 for each in catalog["models"])


async def test_events_reported_like_their_trainer_does_give_a_log_they_can_read(
    api: Any,
) -> None:
    await api.push()
    job = await api.job()
    _, key = await api.start()
    path = f"{api.jobs}/{job['id']}"
    events: list[dict[str, Any]] = [
        {"event_type": "training_start", "message": "begins", "data": {"backend": "tinker"}},
        {"event_type": "step_complete", "metrics": {"steps": [1], "train/loss": [2.0]}},
        {"event_type": "step_complete", "metrics": {"steps": [2], "train/loss": [1.0]}},
        {"event_type": "checkpoint_saved", "message": "see [/x]", "artifacts": {"a": "b"}},
        {"event_type": "training_end", "metrics": {"steps": [1, 2], "train/loss": [2.0, 1.0]}},
    ]

    told = [(await api("POST", f"{path}/progress", key=key, json=each)).json() for each in events]
    again = await api("POST", f"{path}/progress", key=key, json=events[-1])
    log = (await api("GET", f"{path}/logs")).json()

    for each in told:
        assert_holds(each, JOB)
    assert again.status_code == 200
    ended = (await api("GET", path)).json()
    assert ended["status"] == "completed"
    assert ended["metrics"]["train/loss"] == [2.0, 1.0]
    assert {each["level"] for each in log["items"]} <= {"debug", "info", "warning", "error"}
    assert all({"timestamp", "message", "data"} <= each.keys() for each in log["items"])
    assert not any("[" in each["message"] for each in log["items"])


async def test_responses_read_by_their_rl_runner_have_no_field_that_its_type_forbids(
    api: Any,
) -> None:
    await api.push()
    job = await api.job()

    context = (await api("GET", f"{api.jobs}/{job['id']}/rl-context")).json()

    assert context.keys() <= RL_CONTEXT


MARKUP = "[/red] [bold]"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/{MARKUP}", None),
        ("GET", f"/org/{MARKUP}", None),
        ("GET", f"/org/acme/ws/lab/training/jobs/{MARKUP}", None),
        ("GET", f"/org/acme/ws/lab/training/jobs?status={MARKUP}", None),
        ("GET", f"/training/catalog/{MARKUP}", None),
        ("GET", f"/training/catalog?sort={MARKUP}", None),
        ("GET", f"/org/acme/datasets/{MARKUP}/1", None),
        ("POST", "/org/acme/ws/lab/training/jobs", {MARKUP: MARKUP}),
        (
            "POST",
            "/org/acme/ws/lab/training/jobs",
            {"model": MARKUP, "trainer_type": "sft", "config": {}},
        ),
        (
            "POST",
            "/org/acme/ws/lab/training/jobs",
            {"model": MARKUP, "trainer_type": MARKUP, "config": {}},
        ),
        ("POST", "/org/acme/tokens", {"name": "x", MARKUP: 1}),
        ("PUT", f"/acme/{MARKUP}/manifests/1", {"annotations": {"io.dreadnode.type": MARKUP}}),
        (
            "PUT",
            "/acme/x/manifests/1",
            {
                "config": {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1},
                "layers": [],
                "annotations": {"io.dreadnode.type": MARKUP},
            },
        ),
    ],
)
async def test_messages_contain_nothing_that_they_read_as_markup(
    api: Any, method: str, path: str, body: Any
) -> None:
    refused = await api(method, path, json=body)
    words = refused.json()

    assert refused.status_code >= 400
    assert "[" not in words["detail"]
    assert "]" not in words["detail"]
    assert not any("[" in each["msg"] for each in words.get("errors") or [])


async def test_displayed_names_contain_no_markup(api: Any) -> None:
    await api.push()

    for change in ({"name": MARKUP}, {"tags": [MARKUP]}, {"project_ref": MARKUP}):
        assert (await api.create(**change)).status_code == 422
    assert await api.count() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("control", ["\x1bc", "\n", "\r", "\x07", "\x9b2J", "\x7f"])
async def test_displayed_text_does_not_move_a_terminals_cursor(api: Any, control: str) -> None:
    await api.push()
    refused = [await api.create(**{name: f"a{control}b"}) for name in ("name", "project_ref")]
    await api.job()
    job, key = await api.start()
    told = {"event_type": "log", "message": f"red{control}text\nbelow"}
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=told)

    shown = (await api("GET", f"{api.jobs}/{job['id']}/logs")).json()["items"][-1]["message"]

    assert [each.status_code for each in refused] == [422, 422]
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.startswith("red")
    assert shown.endswith("text\nbelow")


def test_every_text_for_people_is_escaped_before_it_is_sent(settings: Any) -> None:
    create_app(settings)  # which imports every answer that there is
    spoken = {"error", "message", "phase_reason", "description", "reason"}

    bare = [
        f"{kind.__name__}.{name}"
        for kind in _kinds(Response)
        for name, field in kind.model_fields.items()
        if name in spoken and "plain" not in f"{field.annotation} {field.metadata}"
        if "str" in str(field.annotation)
        # What has fields of its own is looked at there.
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Response))
    ]

    assert bare == []


def _kinds(kind: type[Response]) -> list[type[Response]]:
    return [each for sub in kind.__subclasses__() for each in (sub, *_kinds(sub))]
