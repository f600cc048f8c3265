"""Members, API tokens, costs and budgets in the console."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MEMBERS = "/ws/lab/settings/members"
TOKENS = "/ws/lab/settings/tokens"
COSTS = "/ws/lab/settings/costs"


def secret(page: Any) -> str:
    found = re.search(r"<pre[^>]*>(dn_[^<]+)</pre>", page.text)
    assert found is not None, page.text
    return found[1]


async def test_an_administrator_adds_changes_and_removes_a_member(api: Any, console: Any) -> None:
    await console.sign_in()
    page = await console.get(MEMBERS)
    values = {"username": "ada", "email": "ada@example.com", "role": "reader"}
    added = await console.post(
        MEMBERS, page, full_name="<script>" + "\uff37" * 190, expires_in_days="7", **values
    )
    again = await console.post(MEMBERS, page, **values)
    promoted = await console.post(f"{MEMBERS}/ada/role", page, role="member")
    listed = await console.get(MEMBERS)
    can_read = await api("GET", "/user", key=secret(added))
    await console.post(f"{MEMBERS}/ada/remove", page)
    gone = await console.get(MEMBERS)

    assert again.status_code == 409
    assert "already a member" in console.text(again)
    assert promoted.status_code == 303
    assert "<script>" not in listed.text
    assert re.search(r'ada/role.*?value="member" selected', listed.text, re.DOTALL)
    assert can_read.json()["username"] == "ada"
    assert "ada@example.com" not in gone.text


async def test_a_token_is_shown_once_and_can_be_revoked(api: Any, console: Any) -> None:
    await console.sign_in("member")
    page = await console.get(TOKENS)
    made = await console.post(TOKENS, page, name="<b>laptop", role="reader", expires_in_days="3")
    token = secret(made)
    listed = await console.get(TOKENS)
    found = re.search(r"<strong>&lt;b&gt;laptop.*?tokens/([^/]+)/revoke", listed.text, re.DOTALL)
    assert found is not None
    before = await api("GET", "/user", key=token)
    revoked = await console.post(f"{TOKENS}/{found[1]}/revoke", page)
    after = await console.get(TOKENS)

    assert before.status_code == 200
    assert revoked.status_code == 303
    assert token not in listed.text
    assert "&lt;b&gt;laptop" not in after.text
    assert "1 revoked or expired" in console.text(after)


async def test_a_budget_is_set_and_costs_are_shown(api: Any, console: Any) -> None:
    await console.sign_in()
    page = await console.get(COSTS)
    await console.post(COSTS, page, monthly_limit_usd="250.50")
    limited = await console.get(f"{COSTS}?group_by=job&month=")
    wrong = await console.post(COSTS, page, monthly_limit_usd="much")
    await console.post(COSTS, page, monthly_limit_usd="")
    unlimited = await console.get(COSTS)

    assert "of $250.50" in console.text(limited)
    assert wrong.status_code == 422
    assert "monthly_limit_usd" in console.text(wrong)
    assert "There is no monthly limit" in console.text(unlimited)


async def test_only_administrators_change_members_and_budgets(api: Any, console: Any) -> None:
    await console.sign_in("member")
    page = await console.get(MEMBERS)
    costs = await console.get(COSTS)
    tokens = await console.get(TOKENS)
    refused = [
        await console.post(path, page, **values)
        for path, values in (
            (MEMBERS, {"username": "eve", "email": "eve@example.com"}),
            (f"{MEMBERS}/reader/role", {"role": "admin"}),
            (f"{MEMBERS}/reader/remove", {}),
            (COSTS, {"monthly_limit_usd": "1"}),
            (TOKENS, {"name": "more", "role": "admin"}),
            (TOKENS, {"name": "theirs", "username": "admin"}),
        )
    ]
    api.client.cookies.clear()
    await console.sign_in("stranger")
    other = await console.get(MEMBERS)

    assert [answer.status_code for answer in refused] == [403] * 6
    assert "Add a member" not in page.text
    assert "Remove" not in console.text(page)
    assert 'name="monthly_limit_usd"' not in costs.text
    assert 'name="username"' not in tokens.text
    assert "admin@example.com" not in other.text
    assert "stranger@example.com" in other.text
