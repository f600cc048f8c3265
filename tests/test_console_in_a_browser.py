"""The console in Debian's chromium, against a whole server and real jobs on a tiny model."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .server import MODEL, Server

CHROMIUM = shutil.which("chromium")
WIDE = "漢" * 200
SCRIPT = "<script>window.hacked = true</script>"
SLOW = 60_000  # milliseconds; a step on a busy machine takes a while
expect.set_options(timeout=SLOW)
SFT = ("--batch-size", "2", "--learning-rate", "1e-2", "--lora-rank", "4")

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PAGES = (
    *("catalog", f"catalog/{MODEL}", f"catalog/compare?chosen={MODEL}&chosen=openai/gpt-oss-20b"),
    *("new-job", "new-job?kind=rl", "datasets", "datasets/sums/1.0.0", "compare"),
    *("settings/members", "settings/tokens", "settings/costs"),
)
"""Pages of a workspace that need nothing but their address."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Console:
    """A browser's window at the console, which notes what must not happen."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.address = f"http://127.0.0.1:{server.ports[0]}"
        self.context = browser.new_context()
        self.context.set_default_timeout(SLOW)
        self.page: Page = self.context.new_page()
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._logged)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(self.address):
            self.foreign.append(request.url)

    def _logged(self, message: Any) -> None:
        if message.type == "error" and "Content Security Policy" in message.text:
            self.errors.append(message.text)

    def sign_in(self, token: str) -> None:
        self.page.goto(self.address)
        self.page.get_by_label("API token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/jobs")

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.address}{path}")
        return self.page


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    made = json.loads(server.dn("token", "create", "browser", "--json").out)
    return str(made["token"])


@pytest.fixture(scope="module")
def job(server: Server) -> str:
    """A job that trains for a long time, with a script wherever text can come from people."""
    rows = [{"prompt": f"{n} + {n}? {SCRIPT}", "response": f"{2 * n} {SCRIPT}"} for n in range(12)]
    path = server.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert server.dn("dataset", "push", str(path), "sums@1.0.0").code == 0
    said = server.dn(
        *("train", "sft", "--model", MODEL, *SFT, "--dataset", "sums@1.0.0", "--steps", "5000"),
        *("--checkpoint-interval", "20", "--name", f"sums {SCRIPT}", "--tag", SCRIPT[:20]),
        "--json",
    )
    assert said.code == 0, said
    return str(json.loads(said.out)["id"])


@pytest.fixture(scope="module")
def others(server: Server, job: str) -> dict[str, str]:
    """The ids of an RL job and of an evaluation, whose name is as wide as one can be."""
    path = server.folder / "questions.jsonl"
    path.write_text(json.dumps({"question": f"1 + 1? {SCRIPT}", "answer": "2"}) + "\n")
    assert server.dn("dataset", "push", str(path), "questions@1.0.0").code == 0
    jobs = {
        "rl": (
            *("rl", "--model", MODEL, "--prompt-dataset", "questions@1.0.0", "--lora-rank", "4"),
            *("--reward-recipe", "gsm8k_v1", "--steps", "1", "--num-rollouts", "1"),
            *("--group-size", "2", "--max-new-tokens", "8"),
        ),
        "eval": ("eval", MODEL, "--dataset", "questions@1.0.0", "--no-wait", "--name", WIDE),
    }
    said = {kind: server.dn("train", *flags, "--json") for kind, flags in jobs.items()}
    assert {each.code for each in said.values()} == {0}, said
    return {kind: str(json.loads(each.out)["id"]) for kind, each in said.items()}


@pytest.fixture
def console(browser: Browser, server: Server, token: str) -> Iterator[Console]:
    opened = Console(browser, server)
    opened.sign_in(token)
    yield opened
    assert opened.foreign == []
    assert opened.errors == []
    assert opened.page.evaluate("window.hacked") is None
    opened.context.close()


def test_a_chart_gains_points_and_the_rows_gain_a_curve_while_a_job_trains(
    console: Console, job: str
) -> None:
    page = console.open(f"/ws/default/jobs/{job}")
    loss = page.locator("figure[data-metric='train/loss']")
    expect(loss).to_have_attribute("data-points", re.compile(r"[2-9]|\d\d"))
    before = loss.get_attribute("data-points") or ""
    expect(loss).not_to_have_attribute("data-points", before)

    expect(page.locator("#state .chip")).to_have_text("running")
    expect(page.locator("#state")).to_contain_text("of 5,000")
    page.locator("[name=log]").check()
    page.locator("[name=smooth]").fill("0.9")
    page.get_by_label("From step").fill("1")
    expect(loss.locator("canvas")).to_be_visible()
    console.open("/ws/default/jobs")
    expect(page.locator("svg.spark path").first).to_be_attached()
    assert SCRIPT in page.locator(".job-name").first.inner_text()


def test_a_row_is_shown_as_rendered_with_the_trained_tokens_marked(
    console: Console, job: str
) -> None:
    page = console.open(f"/ws/default/jobs/{job}")
    page.get_by_role("button", name="Show a row as rendered").click()
    marked = page.locator("#sample mark")

    expect(page.locator("#sample pre")).to_contain_text(f"0 + 0? {SCRIPT}")
    expect(marked.last).to_contain_text(f"0 {SCRIPT}")


def test_no_page_has_a_serious_fault_and_each_fits_its_window(
    browser: Browser, server: Server, token: str, job: str, others: dict[str, str]
) -> None:
    opened = Console(browser, server)
    parts = {"rl": ".group", "eval": "[aria-labelledby=evaluation-title] table"}
    ended = {f"/ws/default/jobs/{others[kind]}": part for kind, part in parts.items()}
    page = opened.open("/sign-in")
    found = _faults(page)
    opened.sign_in(token)
    for path in (
        *("/workspaces", "/ws/default/jobs", f"/ws/default/jobs/{job}", "/nowhere"),
        *(f"/ws/default/{path}" for path in PAGES),
        *(f"/ws/default/jobs/{job}/chat", f"/ws/default/compare?job={job}&job={others['rl']}"),
        *ended,
    ):
        page = opened.open(path)
        if path in ended:
            _wait_for_the_end(page)
            page.locator(ended[path]).first.wait_for()
        if path.endswith((job, others["rl"])):
            page.locator("figure canvas").first.wait_for()
        found += _faults(page)
        for width in (360, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            # Charts take their new width after the next frame.
            page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    opened.context.close()

    assert found == []
    assert (opened.foreign, opened.errors) == ([], [])


def _wait_for_the_end(page: Page) -> None:
    expect(page.locator("#state .chip")).to_have_text("completed")
    page.reload()


def _faults(page: Page) -> list[str]:
    """Return the serious faults of PAGE in the light and in the dark palette."""
    found, grounds = [], set()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found += [
            f"{page.url} {scheme} {each['id']}: {[node['target'] for node in each['nodes']][:3]}"
            for each in Axe().run(page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    assert len(grounds) == len(SCHEMES)
    return found


def test_the_keyboard_reaches_the_content_and_the_theme(console: Console) -> None:
    page = console.open("/ws/default/jobs")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    theme = page.locator("#theme")
    theme.focus()
    for expected in ("light", "dark", "light"):  # The last one is the browser's own.
        page.keyboard.press("Enter")
        assert page.evaluate("getComputedStyle(document.body).colorScheme") == expected
        page.reload()
        assert page.evaluate("getComputedStyle(document.body).colorScheme") == expected
        theme.focus()


def test_an_open_page_survives_the_restart_of_a_killed_server(
    console: Console, server: Server, job: str
) -> None:
    page = console.open(f"/ws/default/jobs/{job}")
    loss = page.locator("figure[data-metric='train/loss']")
    expect(loss).to_have_attribute("data-points", re.compile(r"\d+"))
    server.kill()
    expect(page.locator("#notice")).to_have_text("The server does not respond. Trying again…")
    server.start()
    expect(page.locator("#notice")).to_have_text("Connected to the server again.")
    before = loss.get_attribute("data-points") or ""

    expect(loss).not_to_have_attribute("data-points", before)
    expect(page.locator("#state .chip")).to_have_text("running")
    assert int(loss.get_attribute("data-points") or 0) > int(before)


def test_a_revoked_token_and_a_cancelled_job_show_in_open_pages(
    browser: Browser, server: Server, console: Console, job: str
) -> None:
    made = json.loads(server.dn("token", "create", "short-lived", "--json").out)
    other = Console(browser, server)
    other.sign_in(made["token"])
    follower = other.open(f"/ws/default/jobs/{job}")
    follower.locator("figure canvas").first.wait_for()
    page = console.open(f"/ws/default/jobs/{job}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel job").click()

    expect(page.locator("#state .chip")).to_have_text("cancelled")
    expect(follower.locator("#state .chip")).to_have_text("cancelled")
    listed = other.open("/ws/default/jobs")
    assert server.dn("token", "revoke", made["id"]).code == 0
    expect(listed.locator("#notice")).to_contain_text("Your session has ended")
    listed.get_by_role("link", name="Sign in again").click()
    expect(listed.get_by_role("heading", name="Sign in")).to_be_visible()
    other.context.close()


def test_a_download_is_the_file(console: Console, job: str, tmp_path: Path) -> None:
    page = console.open(f"/ws/default/jobs/{job}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Export").last.click()
    link = page.locator("#checkpoints a", has_text="config").first
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "adapter_config.json")

    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_model_is_found_in_the_catalog_and_trained_from_the_form(
    console: Console, job: str
) -> None:
    page = console.open("/ws/default/catalog")
    page.get_by_label("Trainable here").check()
    page.get_by_label("Name or id").fill(MODEL)
    expect(page.get_by_role("status").first).to_have_text("1 model", timeout=SLOW)
    page.locator(".results a").first.click()
    page.get_by_role("link", name="Train this").click()
    page.get_by_label("Dataset", exact=False).first.fill("sums@1.0.0")
    page.get_by_label("Steps", exact=False).first.fill("2")
    page.locator("[name=name]").fill(f"from the form {SCRIPT}")

    expect(page.locator("#report")).to_contain_text("12 of 12 usable", timeout=SLOW)
    expect(page.locator("#report pre").first).to_be_attached()
    expect(page.locator(".copyable").first).to_contain_text("--steps 2", timeout=SLOW)
    page.get_by_role("button", name="Submit job").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    second = page.url.rpartition("/")[2]
    expect(page.locator("#state .chip")).to_have_text("completed", timeout=SLOW)
    page = console.open(f"/ws/default/compare?job={job}&job={second}")
    expect(page.locator("#legend li")).to_have_count(2, timeout=SLOW)
    page.locator("[name=prompt]").fill("1 + 1?")
    page.locator("[name=max_tokens]").fill("16")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".answers article")).to_have_count(2, timeout=SLOW)
    expect(page.locator(".answers .said").last).to_be_attached()
    page = console.open(f"/ws/default/jobs/{second}/chat")
    page.locator("[name=max_tokens]").fill("16")
    page.locator("[name=content]").fill(f"1 + 1? {SCRIPT}")
    page.keyboard.press("Enter")
    expect(page.locator(".messages .assistant small")).to_contain_text("tokens", timeout=SLOW)
