"""Datasets of any format and of several splits, over HTTP; and the jobs that name a split."""

import asyncio
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alembic import command
from dreadnode_api import migrations
from dreadnode_api.db import Database
from dreadnode_api.settings import Settings
from dreadnode_api.uploads import UnreadableUpload, UploadReader, upload_queue
from sqlalchemy import Connection, text

PATH = "/org/acme/datasets/rows/1.0.0"
# What does not reach a database needs no second one.
once = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROW = b'{"prompt": "a", "response": "b"}\n'
CSV = b"prompt,response\na,b\nc,d\n"


def parquet(rows: int = 3) -> bytes:
    file = io.BytesIO()
    said = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * rows
    pq.write_table(pa.table({"messages": said}), file)
    return file.getvalue()


async def push(api: Any, **files: tuple[str, bytes]) -> Any:
    return await api("PUT", PATH, files=files)


async def splits(api: Any) -> Any:
    """Push three splits of three formats."""
    return await push(
        api,
        train=("train.jsonl", ROW * 4),
        validation=("some.csv", CSV),
        test=("test.parquet", parquet()),
    )


@once
@pytest.mark.parametrize(
    ("media", "kind", "body", "rows"),
    [
        ("application/json", "json", b'[{"prompt": "a"}]', [{"prompt": "a"}]),
        (
            "text/csv; charset=utf-8",
            "csv",
            CSV,
            [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}],
        ),
        (
            "application/vnd.apache.parquet",
            "parquet",
            parquet(1),
            [
                {
                    "messages": [
                        {"content": "q", "role": "user"},
                        {"content": "a", "role": "assistant"},
                    ]
                }
            ],
        ),
    ],
)
async def test_a_file_of_another_format_is_stored_and_read_as_jsonl(
    api: Any, media: str, kind: str, body: bytes, rows: list[Any]
) -> None:
    pushed = await api("PUT", PATH, content=body, headers={"Content-Type": media})
    again = await api("PUT", PATH, content=body, headers={"Content-Type": media})
    content = await api("GET", f"{PATH}/content")
    original = await api("GET", f"{PATH}/content", params={"pushed": True})

    assert (pushed.status_code, again.status_code) == (201, 200)
    made = pushed.json()
    assert [json.loads(line) for line in content.text.splitlines()] == rows
    assert original.content == body
    assert original.headers["content-type"].startswith(media.partition(";")[0])
    digest = hashlib.sha256(body).hexdigest()
    assert (made["format"], made["rows"], made["sha256"]) == (kind, len(rows), digest)
    assert made["splits"] == [
        {
            "name": "train",
            "format": kind,
            "rows": len(rows),
            "bytes": len(body),
            "sha256": digest,
            "content_bytes": len(content.content),
            "content_sha256": hashlib.sha256(content.content).hexdigest(),
        }
    ]


async def test_a_version_has_a_split_for_each_file(api: Any) -> None:
    pushed = await splits(api)

    made = pushed.json()
    assert (pushed.status_code, made["format"], made["rows"]) == (201, "mixed", 9)
    assert [(s["name"], s["format"], s["rows"]) for s in made["splits"]] == [
        ("train", "jsonl", 4),
        ("validation", "csv", 2),
        ("test", "parquet", 3),
    ]
    assert (await api("GET", PATH)).json() == made
    assert (await api("GET", "/org/acme/datasets")).json()["items"] == [made]
    assert (await splits(api)).status_code == 200


@once
async def test_the_content_is_the_named_split_or_train(api: Any) -> None:
    await splits(api)

    train = await api("GET", f"{PATH}/content")
    named = await api("GET", f"{PATH}/content", params={"split": "validation"})
    missing = await api("GET", f"{PATH}/content", params={"split": "dev"})

    assert train.content == ROW * 4
    assert named.text.splitlines()[1] == '{"prompt": "c", "response": "d"}'
    assert 'filename="rows-1.0.0-validation.jsonl"' in named.headers["content-disposition"]
    assert (missing.status_code, missing.json()["detail"]) == (
        404,
        "`rows@1.0.0` does not have the split `dev`; it has `train`, `validation`, `test`",
    )


async def test_a_different_file_is_another_version(api: Any) -> None:
    await splits(api)

    for other in (
        {"train": ("train.jsonl", ROW * 4)},
        {"train": ("train.jsonl", ROW), "validation": ("v.csv", CSV)},
    ):
        refused = await push(api, **other)
        assert (refused.status_code, refused.json()["type"]) == (409, "conflict_error")


async def test_concurrent_pushes_create_the_splits_once(api: Any) -> None:
    answers = await asyncio.gather(*(splits(api) for _ in range(3)))

    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len((await api("GET", PATH)).json()["splits"]) == 3


@once
@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ({"Train": ("t.jsonl", ROW)}, 422, "`Train` cannot be the name of a split"),
        ({"../x": ("t.jsonl", ROW)}, 422, "`../x` cannot be the name of a split"),
        (
            {"train": ("t.xlsx", ROW)},
            422,
            "Split `train`: The file name `t.xlsx` must end in one of `.jsonl`",
        ),
        (
            {"train": ("t.jsonl", ROW), "test": ("t.jsonl", b"oops")},
            422,
            "Split `test`: Line 1 is not JSON",
        ),
        (
            {"train": ("t.jsonl", ROW), "test": ("t.csv", b"a,b\n1\n")},
            422,
            "Split `test`: Row 1, which ends in line 2, has 1 value",
        ),
        ({"train": ("t.parquet", ROW)}, 422, "The file is not Parquet"),
        ({"train": ("t.parquet", b"PAR1" * 9)}, 422, "The file cannot be read as Parquet ("),
        ({f"s{n}": ("t.jsonl", ROW) for n in range(33)}, 422, "A dataset has at most 32 splits"),
        ({"train": ("t.csv", b"a[0],a[0]\n1,2\n")}, 422, "Columns 1 and 2 are both named `a(0)`"),
    ],
)
async def test_an_invalid_split_refuses_the_whole_push(
    api: Any, files: dict[str, Any], status: int, detail: str
) -> None:
    refused = await push(api, **files)

    assert (refused.status_code, refused.json()["detail"][: len(detail)]) == (status, detail)
    assert (await api("GET", PATH)).status_code == 404
    blobs = api.settings.data_dir / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []


@once
@pytest.mark.parametrize(
    ("media", "body", "status"),
    [
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=X", b"", 400),
        ("multipart/form-data; boundary=X", b"--X--\r\n", 422),
        ("multipart/form-data; boundary=X", b"nothing of the kind", 400),
        ("multipart/form-data; boundary=X", b"--X\r\n" + b"A: b\r\n" * 2000 + b"\r\n--X--", 400),
        ("multipart/form-data; boundary=X", b"--X\r\n\r\nrows\r\n--X--\r\n", 422),
        (
            "multipart/form-data; boundary=X",
            b'--X\r\nContent-Disposition: form-data; name="train"\r\n\r\n' + ROW,
            400,
        ),
    ],
)
async def test_an_invalid_multipart_body_is_refused(
    api: Any, media: str, body: bytes, status: int
) -> None:
    refused = await api("PUT", PATH, content=body, headers={"Content-Type": media})

    assert refused.status_code == status
    assert (await api("GET", PATH)).status_code == 404


@once
async def test_the_limit_applies_to_all_splits_together_and_to_their_uncompressed_size(
    api: Any,
) -> None:
    object.__setattr__(api.settings, "max_dataset_bytes", 5000)
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["x" * 900] * 8}), file)

    together = await push(api, train=("a.jsonl", ROW * 100), test=("b.jsonl", ROW * 100))
    unpacked = await push(api, train=("a.parquet", file.getvalue()))

    assert (together.status_code, unpacked.status_code) == (400, 422)
    assert unpacked.json()["detail"] == "The rows are more than the limit of 5,000 bytes"
    assert (await api("GET", PATH)).status_code == 404


async def read(settings: Settings, kind: str, file: Path) -> None:
    limit = 2**30
    paths = (str(file), str(file.with_name("out")))
    await UploadReader(settings, upload_queue(settings)).read(
        "org", "dreadnode_api.datasets.formats", kind, *paths, str(limit), output_bytes=limit
    )


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """Settings without a database."""
    return Settings(data_dir=tmp_path)


async def test_parquet_that_expands_beyond_the_memory_is_refused(
    own: Settings, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.parquet"
    # One row that is a list of 50 million numbers, in a file of a few hundred bytes.
    many = pa.ListArray.from_arrays([0, 50_000_000], pa.nulls(50_000_000))
    pq.write_table(pa.table({"a": many}), bomb)
    assert bomb.stat().st_size < 100_000

    with pytest.raises(UnreadableUpload, match="memory"):
        await read(own.model_copy(update={"convert_memory_bytes": 2**29}), "parquet", bomb)


async def test_a_conversion_that_takes_too_long_is_stopped(own: Settings, tmp_path: Path) -> None:
    slow = tmp_path / "slow.csv"
    slow.write_bytes(b"a\n" + b"1\n" * 3_000_000)

    with pytest.raises(UnreadableUpload, match=r"took longer than 0 seconds; push JSONL"):
        await read(own.model_copy(update={"convert_timeout": 0.2}), "csv", slow)


async def test_datasets_from_before_splits_have_one_called_train(
    api: Any, database: Database
) -> None:
    await api.push()
    before = (await api("GET", PATH)).json()

    def migrate_again(connection: Connection) -> None:
        config = migrations.configuration(connection)
        connection.execute(text("DROP TABLE dataset_splits"))
        command.stamp(config, "0004")
        command.upgrade(config, "0005")
        command.stamp(config, "head")

    async with database.engine.begin() as connection:
        await connection.run_sync(migrate_again)

    assert (await api("GET", PATH)).json() == before
    assert before["splits"][0]["name"] == "train"
    assert before["splits"][0]["content_sha256"] == before["sha256"]


async def test_a_job_trains_on_train_by_default_and_says_so(api: Any) -> None:
    made = (await splits(api)).json()["splits"]

    silent = await api.job()
    said = await api.job(config={"split": "test", "eval_split": "validation", "eval_interval": 2})

    assert silent["config"]["split"] == "train"
    assert "eval_split" not in silent["config"]
    train = {"role": "train", "name": "rows", "version": "1.0.0"}
    assert silent["preflight"]["datasets"] == [
        {**train, "split": "train", "rows": 4, "sha256": made[0]["content_sha256"]}
    ]
    config = said["config"]
    assert (config["split"], config["eval_split"]) == ("test", "validation")
    assert config["eval_dataset_ref"] == {"name": "rows", "version": "1.0.0"}
    assert [(d["role"], d["split"], d["sha256"]) for d in said["preflight"]["datasets"]] == [
        ("train", "test", made[2]["content_sha256"]),
        ("eval", "validation", made[1]["content_sha256"]),
    ]
    assert (silent["preflight"]["rows"], said["preflight"]["rows"]) == (4, 3)


@once
async def test_an_rl_job_names_splits_too(api: Any) -> None:
    await splits(api)
    ref = {"name": "rows", "version": "1.0.0"}
    config = {
        "algorithm": "ppo",
        "prompt_dataset_ref": ref,
        "prompt_split": "test",
        "eval_split": "train",
        "trajectory_dataset_refs": [ref],
    }
    wish = {"model": "Qwen/Qwen3-8B", "trainer_type": "rl", "config": config}

    created = await api("POST", api.jobs, json=wish)

    job = created.json()
    assert created.status_code == 201, job
    assert (job["config"]["prompt_split"], job["config"]["eval_split"]) == ("test", "train")
    assert job["config"]["eval_dataset_ref"] == ref
    assert [(d["role"], d["split"]) for d in job["preflight"]["datasets"]] == [
        ("train", "test"),
        ("trajectories", "train"),
        ("eval", "train"),
    ]


@once
@pytest.mark.parametrize(
    ("config", "loc", "detail"),
    [
        (
            {"split": "dev"},
            "split",
            "`rows@1.0.0` does not have the split `dev`; it has `train`, `exam`",
        ),
        (
            {"eval_dataset_ref": {"name": "rows", "version": "1.0.0"}},
            "eval_split",
            "`rows@1.0.0` has the splits `train`, `exam`; name one of them",
        ),
        ({"eval_split": "dev"}, "eval_split", "`rows@1.0.0` does not have the split `dev`"),
        ({"split": "../x"}, "split", "use at most 64 lower-case letters"),
    ],
)
async def test_a_missing_split_is_refused_by_the_field_that_names_it(
    api: Any, config: dict[str, Any], loc: str, detail: str
) -> None:
    await push(api, train=("a.jsonl", ROW), exam=("b.jsonl", ROW))

    refused = await api.create(config=config)

    body = refused.json()
    assert refused.status_code == 422
    assert body["errors"][0]["loc"][-2:] == ["config", loc]
    assert detail in body["errors"][0]["msg"]
    assert await api.count() == 0


@once
async def test_a_sandbox_reads_the_splits_of_its_own_datasets(api: Any) -> None:
    await splits(api)
    await api.push("other")
    await api.job()
    _, key = await api.start()

    own = await api("GET", f"{PATH}/content", params={"split": "validation"}, key=key)
    others = await api("GET", "/org/acme/datasets/other/1.0.0/content", key=key)

    assert (own.status_code, others.status_code) == (200, 403)
