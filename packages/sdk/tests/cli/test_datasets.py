"""`dn dataset push | list | get`, by their transcripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inline_snapshot import snapshot

Dn = Callable[[str], str]
ROW = '{"prompt": "Where?", "response": "Pier 4"}\n'


def test_a_pushed_file_arrives_byte_for_byte_and_the_hint_trains_on_it(dn: Dn, api: Any) -> None:
    Path("rows.jsonl").write_text(ROW * 3)

    assert dn("dataset push rows.jsonl support@1.0.0") == snapshot("""\
exit: 0
--- stdout
dataset  support@1.0.0
rows     3
bytes    129
sha256   875aaa9f6209f7153a819b6f3762ee3cbeae7e2e5e8bfaae04f7ef48f4dc8c93
created  2026-11-22 03:00:00
--- stderr
stored rows.jsonl as support@1.0.0: 3 rows, 129 bytes
hint: `dn train sft --model MODEL --dataset support@1.0.0` trains on it
""")
    assert api.datasets == {("support", "1.0.0"): (ROW * 3).encode()}


def test_the_same_bytes_again_change_nothing_and_other_bytes_are_refused(dn: Dn) -> None:
    Path("rows.jsonl").write_text(ROW)
    dn("dataset push rows.jsonl support@1.0.0")

    assert dn("dataset push rows.jsonl support@1.0.0").startswith("exit: 0")

    Path("rows.jsonl").write_text(ROW * 2)

    assert dn("dataset push rows.jsonl support@1.0.0") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: Dataset `support@1.0.0` exists with other content
""")


def test_without_a_name_the_file_gives_it(dn: Dn, api: Any) -> None:
    Path("Support Tone (new).jsonl").write_text(ROW)

    dn("dataset push 'Support Tone (new).jsonl'")

    assert list(api.datasets) == snapshot([("support-tone-new", "8440db0f6772")])


def test_datasets_are_listed_and_shown_with_their_versions(dn: Dn, api: Any) -> None:
    api.datasets = {("a", "1"): b"{}\n", ("a", "2"): b"{}\n{}\n", ("b", "1"): b"{}\n"}

    assert dn("dataset list") == snapshot("""\
exit: 0
--- stdout
DATASET  ROWS  BYTES  CREATED
a@1         1      3  2026-11-22 03:00:00
a@2         2      6  2026-11-22 03:00:00
b@1         1      3  2026-11-22 03:00:00
--- stderr
""")
    assert dn("dataset get a") == snapshot("""\
exit: 0
--- stdout
DATASET  ROWS  BYTES  CREATED
a@1         1      3  2026-11-22 03:00:00
a@2         2      6  2026-11-22 03:00:00
--- stderr
""")
    assert dn("dataset get b@1") == snapshot("""\
exit: 0
--- stdout
dataset  b@1
rows     1
bytes    3
sha256   ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356
created  2026-11-22 03:00:00
--- stderr
""")


def test_an_unknown_dataset_is_one_sentence(dn: Dn) -> None:
    assert dn("dataset get nope") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: There is no dataset `nope`
""")


def test_nothing_stored_yet_is_no_error(dn: Dn) -> None:
    assert dn("dataset list") == snapshot("""\
exit: 0
--- stdout
--- stderr
no datasets; `dn dataset push FILE` stores one
""")


def test_a_list_as_json_is_an_array(dn: Dn, api: Any) -> None:
    api.datasets = {("a", "1"): b"{}\n"}

    said = dn("dataset list --json").partition("--- stdout\n")[2].partition("--- stderr\n")[0]

    assert [each["name"] for each in json.loads(said)] == ["a"]
