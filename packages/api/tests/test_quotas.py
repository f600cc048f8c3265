"""Quotas: what one organization may store and queue, and who may change that."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from dreadnode_api import quotas

ROW = b'{"prompt": "a", "response": "b"}\n'
PROMPT = {"prompt": "Be brief"}
HOOK = {"url": "https://hooks.example.com/x"}


async def set_limit(api: Any, resource: str, limit: int) -> None:
    async with api.database.writing() as session:
        await quotas.set_limit(session, api.org_id, resource, limit)


async def usage(api: Any, resource: str) -> dict[str, Any]:
    answer = await api("GET", "/org/acme/usage", key="reader")
    assert answer.status_code == 200, answer.text
    [found] = [each for each in answer.json()["items"] if each["resource"] == resource]
    return dict(found)


async def push(api: Any, number: int) -> Any:
    return await api("PUT", f"/org/acme/datasets/rows/0.{number}.0", content=ROW * (number + 1))


async def token(api: Any, number: int) -> Any:
    return await api("POST", "/org/acme/tokens", json={"name": f"token {number}"})


async def member(api: Any, number: int) -> Any:
    body = {"username": f"user{number}", "email": f"user{number}@example.com"}
    return await api("POST", "/org/acme/members", json=body)


async def webhook(api: Any, number: int) -> Any:
    return await api("POST", "/org/acme/ws/lab/webhooks", json=HOOK)


async def blob(api: Any, number: int) -> Any:
    content = b"blob %d" % number
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = f"/acme/harbour/blobs/uploads/{'0' * 32}?digest={digest}"
    return await api("PUT", path, content=content)


async def job(api: Any, number: int) -> Any:
    return await api.create(name=f"job {number}")


CREATE = {
    "datasets": push,
    "tokens": token,
    "webhooks": webhook,
    "blobs": blob,
    "queued_jobs": job,
}


@pytest.fixture
async def stocked(api: Any) -> Any:
    await api.push()
    return api


@pytest.mark.parametrize("resource", CREATE)
async def test_an_organization_above_its_quota_is_refused_with_what_to_do(
    stocked: Any, resource: str
) -> None:
    used = (await usage(stocked, resource))["used"]
    await set_limit(stocked, resource, used + 2)

    created = [await CREATE[resource](stocked, number) for number in range(3)]

    assert [each.is_success for each in created] == [True, True, False]
    refused = created[2].json()
    assert (refused["code"], refused["type"]) == (409, "conflict_error")
    assert f"at most {used + 2:,}" in refused["detail"]
    assert await usage(stocked, resource) == {
        "resource": resource,
        "used": used + 2,
        "limit": used + 2,
    }


@pytest.mark.parametrize("resource", ["tokens", "queued_jobs", "webhooks", "datasets"])
async def test_concurrent_requests_do_not_exceed_a_quota(stocked: Any, resource: str) -> None:
    used = (await usage(stocked, resource))["used"]
    await set_limit(stocked, resource, used + 2)

    created = await asyncio.gather(*(CREATE[resource](stocked, number) for number in range(6)))

    assert sum(each.is_success for each in created) == 2
    assert (await usage(stocked, resource))["used"] == used + 2


async def test_a_new_member_counts_as_a_token(api: Any) -> None:
    used = (await usage(api, "tokens"))["used"]
    await set_limit(api, "tokens", used + 1)

    created = [await member(api, number) for number in range(2)]

    assert [each.status_code for each in created] == [201, 409]


@pytest.mark.parametrize("create", [push, blob, job])
async def test_a_full_store_accepts_no_data_and_no_jobs_until_there_is_room(
    stocked: Any, create: Any
) -> None:
    used = (await usage(stocked, "stored_bytes"))["used"]
    await set_limit(stocked, "stored_bytes", used)
    refused = await create(stocked, 0)
    await set_limit(stocked, "stored_bytes", 10**9)
    taken = await create(stocked, 0)

    assert refused.status_code == 409
    assert "stored bytes" in refused.json()["detail"]
    assert taken.is_success, taken.text


async def test_stored_bytes_count_pushed_files_and_their_rows(api: Any) -> None:
    csv = b"prompt,response\na,b\n"
    headers = {"Content-Type": "text/csv"}
    pushed = await api("PUT", "/org/acme/datasets/t/1.0.0", content=csv, headers=headers)
    assert pushed.status_code == 201, pushed.text
    [split] = pushed.json()["splits"]
    prompt = await api("PUT", "/org/acme/capabilities/a/1.0.0", json=PROMPT)
    assert prompt.status_code == 201

    used = (await usage(api, "stored_bytes"))["used"]

    assert used == len(csv) + split["content_bytes"]


async def test_quotas_of_organizations_are_independent(stocked: Any) -> None:
    await set_limit(stocked, "webhooks", 1)
    for expected in (201, 409):
        assert (await webhook(stocked, 0)).status_code == expected

    theirs = await stocked("POST", "/org/other/ws/lab/webhooks", key="stranger", json=HOOK)

    assert theirs.status_code == 201


async def test_the_operator_shows_sets_and_resets_a_quota(api: Any, operator: Any) -> None:
    shown = await operator("quota", "acme")
    changed = await operator("quota", "acme", "webhooks", "7")
    seen = await usage(api, "webhooks")
    reset = await operator("quota", "acme", "webhooks", "default")

    default = api.settings.quota_webhooks
    assert json.loads(shown.stdout)["webhooks"] == {"used": 0, "limit": default}
    assert json.loads(changed.stdout)["webhooks"]["limit"] == seen["limit"] == 7
    assert json.loads(reset.stdout)["webhooks"]["limit"] == default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "There is no organization `nobody`"),
        (["acme", "webhooks"], "Name the limit of `webhooks`, or `default`"),
        (["acme", "webhooks", "-1"], "`-1` is not valid"),
        (["acme", "webhooks", "many"], "`many` is not valid"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_invalid_quota_is_refused(
    operator: Any, arguments: list[str], message: str
) -> None:
    done = await operator("quota", "--", *arguments)

    assert done.returncode == 1
    assert message in done.stderr


async def test_the_operator_creates_a_token_with_the_role_of_a_member(
    api: Any, operator: Any
) -> None:
    made = await operator("token", "acme", "member")
    unknown = await operator("token", "acme", "stranger")

    answer = json.loads(made.stdout)
    assert (answer["organization"], answer["role"]) == ("acme", "member")
    who = await api("GET", "/user", key=answer["token"])
    assert who.json()["username"] == "member"
    assert unknown.returncode == 1
    assert "has no member `stranger`" in unknown.stderr
