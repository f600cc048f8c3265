"""`dn dataset push | list | get | read`, by their transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

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
format   jsonl
splits   train
rows     3
bytes    129
sha256   875aaa9f6209f7153a819b6f3762ee3cbeae7e2e5e8bfaae04f7ef48f4dc8c93
created  2026-11-22 03:00:00
--- stderr
stored rows.jsonl as support@1.0.0: 3 rows, 129 bytes
hint: `dn train sft --model MODEL --dataset support@1.0.0` trains on it
""")
    assert api.datasets == {("support", "1.0.0"): (ROW * 3).encode()}


def test_pushing_the_same_bytes_again_changes_nothing_and_other_bytes_are_refused(dn: Dn) -> None:
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


def test_the_name_defaults_to_the_file_name(dn: Dn, api: Any) -> None:
    Path("Support Tone (new).jsonl").write_text(ROW)

    dn("dataset push 'Support Tone (new).jsonl'")

    assert list(api.datasets) == snapshot([("support-tone-new", "8440db0f6772")])


def test_datasets_are_listed_and_shown_with_their_versions(dn: Dn, api: Any) -> None:
    api.datasets = {("a", "1"): b"{}\n", ("a", "2"): b"{}\n{}\n", ("b", "1"): b"{}\n"}

    assert dn("dataset list") == snapshot("""\
exit: 0
--- stdout
DATASET  FORMAT  SPLITS  ROWS  BYTES  CREATED
a@1      jsonl   train      1      3  2h ago
a@2      jsonl   train      2      6  2h ago
b@1      jsonl   train      1      3  2h ago
--- stderr
""")
    assert dn("dataset get a") == snapshot("""\
exit: 0
--- stdout
DATASET  FORMAT  SPLITS  ROWS  BYTES  CREATED
a@1      jsonl   train      1      3  2h ago
a@2      jsonl   train      2      6  2h ago
--- stderr
""")
    assert dn("dataset get b@1") == snapshot("""\
exit: 0
--- stdout
dataset  b@1
format   jsonl
splits   train
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


def test_an_empty_list_is_not_an_error(dn: Dn) -> None:
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


def test_each_file_of_a_folder_is_the_split_of_its_name(dn: Dn, api: Any) -> None:
    Path("data").mkdir()
    Path("data/train-00000-of-00001.jsonl").write_text(ROW)
    Path("data/Validation.csv").write_text("prompt,response\na,b\n")
    Path("data/.hidden").write_text("")

    said = dn("dataset push data support@1.0.0 --split test=./data/Validation.csv")

    assert api.splits["support", "1.0.0"] == {
        "validation": ("validation.csv", b"prompt,response\na,b\n"),
        "train": ("train.jsonl", ROW.encode()),
        "test": ("test.csv", b"prompt,response\na,b\n"),
    }
    assert "splits   validation 2 (csv), train 1 (jsonl), test 2 (csv)\n" in said
    assert "stored data as support@1.0.0: 5 rows, 83 bytes, in 3 splits\n" in said


def test_a_file_is_sent_with_its_own_media_type(dn: Dn, api: Any) -> None:
    Path("rows.csv").write_text("prompt\na\n")
    Path("rows.txt").write_text('[{"prompt": "a"}]')

    dn("dataset push rows.csv")
    dn("dataset push rows.txt a@1 --format json")

    sent = [each.headers["content-type"] for each in api.requests if each.method == "PUT"]
    assert sent == ["text/csv", "application/json"]
    assert api.datasets["a", "1"] == b'[{"prompt": "a"}]'


def test_a_version_derived_from_several_files_changes_with_any_of_them(dn: Dn, api: Any) -> None:
    Path("data").mkdir()
    for text in ("1", "2", "1"):
        Path("data/a.jsonl").write_text(ROW)
        Path("data/b.csv").write_text(f"prompt\n{text}\n")
        dn("dataset push ./data")

    assert [name for name, _ in api.splits] == ["data", "data"]


def test_rows_are_shown_like_jobs_read_them(dn: Dn, api: Any) -> None:
    api.datasets = {("a", "1"): b'{"n": 1}\n{"n": "\xc3\xa9"}\n\n{"n": 3}'}
    api.splits = {("a", "1"): {"test": ("test.jsonl", b"{}\n")}}

    def out(line: str) -> str:
        return dn(line).partition("--- stdout\n")[2].partition("--- stderr")[0]

    assert out("dataset read a@1") == '{"n": 1}\n{"n": "é"}\n{"n": 3}\n'
    assert out("dataset read a@1 --rows 2") == '{"n": 1}\n{"n": "é"}\n'
    assert out("dataset read a@1 --split test") == "{}\n"


def test_an_invalid_dataset_is_refused_before_a_request_is_sent(dn: Dn, api: Any) -> None:
    for folder in ("odd", "twice", "none", "named"):
        Path(folder).mkdir()
    Path("odd/README.md").write_text("hello")
    Path("twice/train.jsonl").write_text(ROW)
    Path("twice/train.csv").write_text("a\n1\n")
    Path("named/ä.csv").write_text("a\n1\n")
    Path("rows.jsonl").write_text(ROW)
    Path("empty.parquet").write_text("")

    said = "".join(
        line
        for command in (
            "push odd",
            "push twice",
            "push none",
            "push named",
            "push empty.parquet",
            "push rows.csv",
            "push rows.jsonl a@1 --split nothing",
            "push rows.jsonl a@1 --split train=rows.jsonl",
            "push rows.jsonl a@1 --split Train=rows.jsonl",
            "read a@1 --rows 0",
        )
        for line in dn(f"dataset {command}").splitlines(keepends=True)
        if line.startswith("error: ")
    )

    assert api.requests == []
    assert said == snapshot("""\
error: odd/README.md is not a .jsonl, .ndjson, .json, .csv or .parquet file, but a pushed folder has one such file for each split; move it away, or name the files with `--split SPLIT=FILE`
error: twice/train.csv and twice/train.jsonl are both the split `train`; merge them into one file
error: none has no .jsonl, .ndjson, .json, .csv or .parquet file
error: named/ä.csv: `ä` is not a valid split name (letters, digits and . _ - only); rename the file
error: empty.parquet is empty
error: rows.csv cannot be read: no such file or directory
error: `--split nothing`: write SPLIT=FILE, as in `validation=./val.csv`
error: the split `train` is both rows.jsonl and rows.jsonl; name each split once
error: `Train` is not a valid split name: use lower-case letters, digits and . _ - only
error: `--rows` must be above 0, not 0
""")


def test_a_job_request_names_its_splits(dn: Dn, api: Any) -> None:
    def config() -> Any:
        return json.loads(api.requests[-1].content)["config"]

    dn("train sft --model Qwen/Qwen3-8B --dataset a@1 --split big --eval-split small")
    sft = config()
    dn(
        "train rl --model Qwen/Qwen3-8B --prompt-dataset a@1 --prompt-split big "
        "--eval-dataset b@1 --eval-split small"
    )

    a, b = ({"name": name, "version": "1"} for name in "ab")
    assert sft == {"dataset_ref": a, "split": "big", "eval_split": "small"}
    assert config() == {
        "algorithm": "importance_sampling",
        "prompt_dataset_ref": a,
        "prompt_split": "big",
        "eval_dataset_ref": b,
        "eval_split": "small",
    }


def test_a_folder_given_to_a_job_is_pushed_first_with_all_its_splits(dn: Dn, api: Any) -> None:
    Path("support").mkdir()
    Path("support/train.jsonl").write_text(ROW)
    Path("support/validation.jsonl").write_text(ROW)

    dn("train sft --model Qwen/Qwen3-8B --dataset support --eval-split validation")

    ((name, _),) = api.splits
    assert (
        json.loads(api.requests[-1].content)["config"]["dataset_ref"]["name"] == name == "support"
    )
