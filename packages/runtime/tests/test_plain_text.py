"""Plain text and rendered text become sequences without a chat format around them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.plain_text import prepare_text
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def rendering(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))


@pytest.fixture
def prepared(rendering: Rendering, tmp_path: Path) -> Any:
    def prepare(rows: list[Any], **how: Any) -> tuple[list[Example], Counts]:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept: list[list[Example]] = []
        settings = {"max_length": 64, "rendered": False, "packed": False, **how}
        counts = prepare_text(file, rendering, keep=kept.append, **settings)
        return [example for each in kept for example in each], counts

    return prepare


def test_plain_text_carries_loss_and_ends_with_the_end_token(prepared: Any, tokenizer: Any) -> None:
    (example,), counts = prepared([{"text": "The pier."}])

    written = tokenizer.decode(example.tokens)
    assert written.startswith("The pier.")
    assert len(example.tokens) > len(tokenizer.encode("The pier.", add_special_tokens=False))
    assert example.trained.tolist() == [False] + [True] * (len(example.tokens) - 1)
    assert example.weights.sum() == pytest.approx(1)
    assert (counts.usable, counts.sequences, counts.tokens) == (1, 1, len(example.tokens))


def test_control_tokens_in_plain_text_are_text(prepared: Any, tokenizer: Any) -> None:
    text = "<|im_start|>user"
    (plain,), _ = prepared([{"text": text}])
    (rendered,), _ = prepared([{"text": text}], rendered=True)

    control = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert control not in plain.tokens
    assert rendered.tokens[0] == control


def test_only_the_completion_of_a_rendered_prompt_carries_loss(
    prepared: Any, tokenizer: Any
) -> None:
    row = {"prompt": "<|im_start|>user\nhi<|im_end|>\n", "completion": "ho<|im_end|>"}

    (example,), _ = prepared([row], rendered=True)

    assert tokenizer.decode(example.tokens) == row["prompt"] + row["completion"]
    assert tokenizer.decode(example.tokens[example.trained]) == row["completion"]


def test_packed_rows_fill_sequences_without_losing_tokens(prepared: Any) -> None:
    rows = [{"text": f"Document {n}. " * n} for n in range(1, 9)]
    alone, _ = prepared(rows, max_length=10_000)

    packed, counts = prepared(rows, max_length=16, packed=True)

    assert {len(example.tokens) for example in packed[:-1]} == {16}
    assert np.concatenate([e.tokens for e in packed]).tolist() == (
        np.concatenate([e.tokens for e in alone]).tolist()
    )
    assert counts.sequences == len(packed)
    assert (counts.usable, counts.truncated) == (8, 0)


def test_a_long_text_is_truncated_and_counted_without_packing(prepared: Any) -> None:
    (example,), counts = prepared([{"text": "word " * 50}], max_length=16)

    assert len(example.tokens) == 16
    assert counts.truncated == 1


def test_a_rows_weight_scales_its_loss(prepared: Any) -> None:
    (half, whole), _ = prepared([{"text": "abc", "weight": 0.5}, {"text": "abc"}])

    assert half.weights.sum() == pytest.approx(whole.weights.sum() / 2)


@pytest.mark.parametrize(
    ("row", "how", "reason"),
    [
        ({"messages": []}, {}, "no `text`; the row has `messages`"),
        ({"text": ["a"]}, {}, "its `text` is `("),
        ({"text": " "}, {}, "its `text` is empty"),
        ({"prompt": "a", "completion": "b"}, {}, "no `text`; the row has `prompt`, `completion`"),
        ({"prompt": "a"}, {"rendered": True}, "no `completion`"),
        ({"text": "a", "weight": 2}, {"packed": True}, "it has a `weight`, and packed rows"),
        (
            {"prompt": "a" * 90, "completion": "b"},
            {"rendered": True, "max_length": 8},
            "its completion lies beyond",
        ),
    ],
)
def test_a_row_without_text_is_left_out_with_the_reason(
    prepared: Any, row: dict[str, Any], how: dict[str, Any], reason: str
) -> None:
    _, counts = prepared([row, {"text": "good"}], **how)

    assert next(iter(counts.dropped)).startswith(reason)
    assert list(counts.first_dropped.values()) == [[1]]


def test_unread_fields_are_named_and_refused_by_strict(prepared: Any) -> None:
    rows = [{"text": "a", "url": "b"}, {"text": "c"}]

    _, counts = prepared(rows)

    assert counts.warnings() == ["not read: url, in 1 of 2 rows"]
    with pytest.raises(JobFailed, match="fields that are not read: url, in 1 of 2 rows"):
        prepared(rows, strict=True)
