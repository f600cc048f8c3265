"""JSON, CSV and Parquet to rows: nothing is lost, changed or guessed in silence."""

import datetime as dt
import decimal
import gzip
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dreadnode_api.datasets.formats import MAX_ROW_BYTES, Unreadable
from dreadnode_api.datasets.formats.__main__ import main, read

LIMIT = 2**30


def convert(tmp_path: Path, kind: str, data: bytes, limit: int = LIMIT) -> list[Any]:
    source, target = tmp_path / f"rows.{kind}", tmp_path / "rows.jsonl"
    source.write_bytes(data)
    read(kind, source, target, limit)
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def refusal(tmp_path: Path, kind: str, data: bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        convert(tmp_path, kind, data)
    return str(refused.value)


def parquet(tmp_path: Path, columns: dict[str, Any], **types: Any) -> bytes:
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    path = tmp_path / "made.parquet"
    pq.write_table(pa.table(arrays), path)
    return path.read_bytes()


def test_converted_rows_are_described_with_their_digest(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": 2}]')

    described = read("json", tmp_path / "rows.json", tmp_path / "rows.jsonl", LIMIT)

    written = (tmp_path / "rows.jsonl").read_bytes()
    assert written == b'{"a": 1}\n{"a": 2}\n'
    digest = hashlib.sha256(written).hexdigest()
    assert described == {"rows": 2, "bytes": len(written), "sha256": digest}


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1.10, "b": 1e400, "c": "\\u00e9\\ud800"}]',
        "\ufeff [ {} ,\n {} ]\n",
        '[{"a":"]}[{"}]',
    ],
)
def test_a_json_row_keeps_its_own_text(tmp_path: Path, text: str) -> None:
    source, target = tmp_path / "rows.json", tmp_path / "rows.jsonl"
    source.write_text(text, encoding="utf-8")
    read("json", source, target, LIMIT)

    joined = target.read_text(encoding="utf-8").replace("\n", ",").removesuffix(",")
    assert joined.replace(" ", "") == "".join(text.split()).strip("\ufeff")[1:-1]


def test_an_object_over_several_lines_becomes_one_line(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a\nb"}]}, {"n": 2}]

    assert convert(tmp_path, "json", json.dumps(rows, indent=2).encode()) == rows


def test_an_array_larger_than_a_chunk_is_read_completely(tmp_path: Path) -> None:
    rows = [{"n": n, "text": "ü" * 5000} for n in range(300)] + [{"long": "x" * 3_000_000}]

    assert convert(tmp_path, "json", json.dumps(rows).encode()) == rows


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The file begins with neither an array nor an object"),
        (b"[]", "The file has no rows"),
        (b'[{"a": 1}, [2]]', "Row 2 is not an object"),
        (b'[{"a": NaN}]', "Row 1 is not JSON (JSON has no NaN)"),
        (b'[{"a": 1}, {"a": -Infinity}]', "Row 2 is not JSON (JSON has no -Infinity)"),
        (b'[{"a": 1, "a": 2}]', "Row 1 is not JSON (it has the name `a` twice)"),
        (b'[{"a": 1} {"a": 2}]', "After row 1, a comma or the end of the array is missing"),
        (b'[{"a": 1},', "Row 2 is not an object"),
        (b'[{"a": 1', "Row 1 is not JSON"),
        (b'[{"a": 1}', "After row 1, a comma"),
        (b'[{"a": 1}] []', "The file continues after the array"),
        (b'[{"a": "\xff"}]', "The file is not UTF-8"),
        (b'[{"a": ' + b"[" * 200_000, "Row 1 is not JSON (it is nested too deeply)"),
        (b'[{"a": "' + b"x" * (2 * MAX_ROW_BYTES), "Row 1 is not JSON"),
        (b'[{"a": "' + b"x" * MAX_ROW_BYTES + b'"}]', "Row 1 is longer than 8,388,608 bytes"),
    ],
)
def test_json_that_is_not_an_array_of_objects_is_refused(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    assert refusal(tmp_path, "json", data).startswith(sentence)


def test_csv_values_stay_text(tmp_path: Path) -> None:
    data = '\ufeffprompt,response\r\n007,"a ""b"", c\r\nd"\r\n\r\n1e3,\r\n"  x",NaN'.encode()

    assert convert(tmp_path, "csv", data) == [
        {"prompt": "007", "response": 'a "b", c\r\nd'},
        {"prompt": "1e3", "response": ""},
        {"prompt": "  x", "response": "NaN"},
    ]


def test_csv_columns_of_json_fields_are_parsed_as_json(tmp_path: Path) -> None:
    data = (
        b"prompt,reward,success,tools,messages\n"
        b'a,0.5,True,[],"[{""role"": ""user""}]"\n'
        b"b,true,false,,\n"
        b"c,,,,\n"
    )

    assert convert(tmp_path, "csv", data) == [
        {
            "prompt": "a",
            "reward": 0.5,
            "success": True,
            "tools": [],
            "messages": [{"role": "user"}],
        },
        {"prompt": "b", "reward": True, "success": False},
        {"prompt": "c"},
    ]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "The file has no rows"),
        (b"a,b\n", "The file has no rows"),
        (b"a,,c\n1,2,3\n", "Column 2 has no name"),
        (b"a,b,a\n1,2,3\n", "Columns 1 and 3 are both named `a`"),
        (b"a, b\n1,2\n", "The name of column 2 is ` b`, with whitespace around it"),
        (b"a,b\n1,2\n3\n", "Row 2, which ends in line 3, has 1 value, but the header has 2"),
        (b'a,b\n"1\n2",3,4\n', "Row 1, which ends in line 3, has 3 values"),
        (b'a,b\n1,"2\n', "Line 2 is not CSV (unexpected end of data)"),
        (b'a,b\n1,"2"3\n', "Line 2 is not CSV"),
        (b"a,b\n1,\xff\n", "Line 2 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "Line 1 is not UTF-8"),
        (b"a;b\n1;2\n", "The header has one column, `a;b`"),
        (b"messages\n\"[{'role': 'user'}]\"\n", "Row 1, column `messages`: write a list as JSON"),
        (b"messages\nhello\n", "Row 1, column `messages`: write a list as JSON"),
        (b"messages\n{}\n", "Row 1, column `messages`: write a list as JSON"),
        (b"prompt,reward\na,1\nb,good\n", "Row 2, column `reward`: write a number as JSON"),
        (b"prompt,reward\na,NaN\n", "Row 1, column `reward`: write a number as JSON"),
        (b"prompt,success\na,1\n", "Row 1, column `success`: write true or false as JSON"),
        (b"a\n" + b"x" * (MAX_ROW_BYTES + 9), "Line 2 is longer than 8,388,608 bytes"),
    ],
)
def test_csv_that_does_not_match_its_header_is_refused_by_row_and_column(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    assert refusal(tmp_path, "csv", data).startswith(sentence)


def test_nested_columns_of_parquet_become_messages(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": None}]},
        {"messages": []},
        {"messages": None},
    ]
    data = parquet(tmp_path, {"messages": [row["messages"] for row in rows]})

    assert convert(tmp_path, "parquet", data) == rows


def test_every_type_with_an_exact_json_form_is_kept_exactly(tmp_path: Path) -> None:
    moment = dt.datetime(2026, 11, 22, 3, 0, 0, 123456, tzinfo=dt.UTC)
    data = parquet(
        tmp_path,
        {
            "text": ["a"],
            "word": pa.array(["b"]).dictionary_encode(),
            "big": [2**62],
            "half": [0.5],
            "yes": [True],
            "none": [None],
            "day": [moment.date()],
            "at": [moment],
            "ns": [1],
            "map": [[("k", 1)]],
            "deep": [{"when": [moment.date()]}],
        },
        map=pa.map_(pa.string(), pa.int8()),
        ns=pa.timestamp("ns"),
    )

    assert convert(tmp_path, "parquet", data) == [
        {
            "text": "a",
            "word": "b",
            "big": 2**62,
            "half": 0.5,
            "yes": True,
            "none": None,
            "day": "2026-11-22",
            "at": "2026-11-22 03:00:00.123456Z",
            "ns": "1970-01-01 00:00:00.000000001",
            "map": {"k": 1},
            "deep": {"when": ["2026-11-22"]},
        }
    ]


def test_rows_of_many_batches_keep_their_order(tmp_path: Path) -> None:
    data = parquet(tmp_path, {"n": list(range(1000))})

    assert [row["n"] for row in convert(tmp_path, "parquet", data)] == list(range(1000))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"price": [decimal.Decimal("1.50")]}, "Column `price` has the type decimal128(3, 2), "),
        ({"image": [b"\xff"]}, "Column `image` has the type binary, and JSON has no bytes"),
        ({"t": [dt.time(3)]}, "Column `t` has the type time64"),
        ({"t": [dt.timedelta(3)]}, "Column `t` has the type duration"),
        ({"a": [{"b": [b"x"]}]}, "Column `a` has the type binary"),
        ({"x": [1.0, math.nan]}, "Row 2, column `x` has a number that is infinite or NaN"),
        ({"x": [{"y": math.inf}]}, "Row 1, column `x` has a number that is infinite or NaN"),
        ({"": ["a"]}, "Column 1 has no name"),
        ({"x": pa.array([], pa.int8())}, "The file has no rows"),
    ],
)
def test_parquet_types_without_a_json_form_are_refused_by_column(
    tmp_path: Path, columns: dict[str, Any], sentence: str
) -> None:
    assert refusal(tmp_path, "parquet", parquet(tmp_path, columns)).startswith(sentence)


def test_columns_with_the_same_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twins.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)

    sentence = refusal(tmp_path, "parquet", path.read_bytes())
    assert sentence == "Columns 1 and 2 are both named `a`; rename one"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "The file is not Parquet"),
        (b"PAR1", "The file is not Parquet"),
        (b"PAR1" + b"\0" * 99 + b"PAR1", "The file cannot be read as Parquet ("),
    ],
)
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, damage: bytes, message: str) -> None:
    assert refusal(tmp_path, "parquet", damage).startswith(message)


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    data = bytearray(parquet(tmp_path, {"text": [f"text {n}" for n in range(999)]}))
    data[50:90] = b"\xff" * 40

    assert "Parquet" in refusal(tmp_path, "parquet", bytes(data))


def test_rows_above_the_uncompressed_limit_are_refused(tmp_path: Path) -> None:
    data = parquet(tmp_path, {"text": ["x" * 100_000] * 1000})
    assert len(data) < 100_000

    with pytest.raises(Unreadable, match="more than the limit of 1,000,000 bytes"):
        convert(tmp_path, "parquet", data, limit=1_000_000)


def test_the_conversion_process_prints_its_result_or_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("a\n1\n")
    codes = [main([kind, str(source), str(tmp_path / "out"), "100"]) for kind in ("csv", "json")]

    assert codes == [0, 0]
    said = capsys.readouterr().out
    assert '{"rows": 1, "bytes": 11, "sha256": "' in said
    assert '{"error": "The file begins with neither an array nor an object' in said


def compressed(data: bytes, compression: str) -> bytes:
    if compression == "gz":
        return gzip.compress(data[:5]) + gzip.compress(data[5:])
    return bytes(pa.compress(data, "zstd", asbytes=True))


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}'),
        ("json", b'[{"a": 1}, {"a": 2}]'),
        ("csv", b"a\n1\n2\n"),
    ],
)
def test_a_compressed_text_file_is_read(
    tmp_path: Path, kind: str, data: bytes, compression: str
) -> None:
    rows = convert(tmp_path, f"{kind}.{compression}", compressed(data, compression))

    assert [int(row["a"]) for row in rows] == [1, 2]


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "plain"])
def test_a_damaged_compressed_file_is_refused(
    tmp_path: Path, compression: str, damage: str
) -> None:
    data = b'{"a": 1}\n' * 20000
    data = data if damage == "plain" else compressed(data, compression)[:-12]

    assert "cannot be read as " in refusal(tmp_path, f"jsonl.{compression}", data)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_compressed_file_that_expands_too_much_is_refused(
    tmp_path: Path, compression: str
) -> None:
    data = compressed(b'{"a": 1}\n' * 1000, compression)

    with pytest.raises(Unreadable, match="more than the limit of 100 bytes"):
        convert(tmp_path, f"jsonl.{compression}", data, limit=100)


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"a": 2}\n', '\ufeff{"a": 1}\r\n\r\n{"a":\n2}', '{"a": 1} {"a": 2}']
)
def test_json_lines_named_json_are_read(tmp_path: Path, text: str) -> None:
    assert convert(tmp_path, "json", text.encode()) == [{"a": 1}, {"a": 2}]


def test_a_json_line_that_is_not_an_object_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, "json", b'{"a": 1}\n[2]\n').startswith("Row 2 is not an object")


JSON_TEXT = pa.json_(pa.string())


@pytest.mark.parametrize(
    ("kind", "stored", "read_as"),
    [
        (JSON_TEXT, ['{"x": [1, null]}', None, '"t"'], [{"x": [1, None]}, None, "t"]),
        (pa.list_(JSON_TEXT), [["1", "true"], None, []], [[1, True], None, []]),
        (
            pa.struct([("f", JSON_TEXT), ("n", pa.int8())]),
            [("{}", 1), None],
            [{"f": {}, "n": 1}, None],
        ),
        (
            pa.list_(pa.struct([("f", pa.list_(JSON_TEXT))])),
            [[{"f": ['{"a": 1.5}']}], [{"f": None}]],
            [[{"f": [{"a": 1.5}]}], [{"f": None}]],
        ),
        (pa.map_(pa.string(), JSON_TEXT), [[("k", "[1]")], None], [{"k": [1]}, None]),
    ],
)
def test_values_of_the_json_type_are_parsed_at_any_depth(
    tmp_path: Path, kind: Any, stored: list[Any], read_as: list[Any]
) -> None:
    plain_type = without_json(kind)
    array = pa.array(stored, plain_type).cast(kind)
    path = tmp_path / "made.parquet"
    pq.write_table(pa.table({"v": array}), path)

    assert convert(tmp_path, "parquet", path.read_bytes()) == [{"v": each} for each in read_as]


def without_json(kind: Any) -> Any:
    if kind == JSON_TEXT:
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, without_json(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, without_json(kind.item_type))
    return pa.list_(without_json(kind.value_type)) if pa.types.is_list(kind) else kind


def test_invalid_json_in_a_json_column_is_named(tmp_path: Path) -> None:
    array = pa.array(['{"x": 1}', "{"], pa.string()).cast(JSON_TEXT)
    path = tmp_path / "made.parquet"
    pq.write_table(pa.table({"v": array}), path)

    told = refusal(tmp_path, "parquet", path.read_bytes())

    assert told.startswith("Row 2, column `v` has the type JSON and holds other text")
