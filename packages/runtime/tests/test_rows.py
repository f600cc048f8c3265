"""Rows in the usual shapes become conversations, or are unusable for a named reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rows import read_rows

ASKED = {"role": "user", "content": "2+2?"}
REPLIED = {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, REPLIED]},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"steps": [{"source": "user", "message": "2+2?"}, {"source": "agent", "message": "4"}]},
        {"prompt": "2+2?", "response": "4"},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [REPLIED]},
        {"question": "2+2?", "answer": "4"},
        {"input": "2+2?", "output": "4"},
        {"input": "2+2?", "target": "4"},
        {"task_prompt": "2+2?", "expected_output": "4"},
        {"instruction": "2+2?", "output": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"prompt": "2+2?", "answer": 4},
    ],
    ids=lambda row: "+".join(row),
)
def test_every_common_shape_gives_the_same_conversation(row: dict[str, Any]) -> None:
    assert read_conversation(row).messages == [ASKED, REPLIED]


def test_null_columns_of_a_table_row_are_ignored() -> None:
    nulls = dict.fromkeys(("tool_calls", "tool_call_id", "name", "weight", "reasoning_content"))
    part = {"type": "text", "text": "4", "image_url": None}
    row = {
        "messages": [{**nulls, **ASKED}, {**nulls, "role": "assistant", "content": [part]}],
        **dict.fromkeys(("tools", "system", "conversations", "steps", "prompt", "response")),
    }

    assert read_conversation(row).messages == [ASKED, REPLIED]
    assert read_conversation({**row, "messages": None, "prompt": "2+2?", "answer": "4"}) == (
        read_conversation({"prompt": "2+2?", "answer": "4"})
    )


def test_an_instruction_comes_before_its_input() -> None:
    said = read_conversation({"instruction": "Add.", "input": "2 and 2", "output": "4"})

    assert said.messages[0]["content"] == "Add.\n\n2 and 2"


def test_zero_is_a_valid_input() -> None:
    said = read_conversation({"instruction": "Double it.", "input": 0, "output": 0})

    assert [each["content"] for each in said.messages] == ["Double it.\n\n0", "0"]


@pytest.mark.parametrize(("answer", "text"), [(0, "0"), (False, "false"), (0.5, "0.5")])
def test_a_falsy_answer_is_a_valid_answer(answer: Any, text: str) -> None:
    said = read_conversation({"prompt": "how many?", "answer": answer})

    assert said.messages[-1]["content"] == text


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "input_text", "text": "2"}, "?"]

    said = read_conversation({"messages": [{"role": "user", "content": parts}, REPLIED]})

    assert said.messages[0] == ASKED


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "4", "reasoning_content": "easy"},
        {"content": [{"type": "thinking", "thinking": "easy"}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "reasoning", "text": "easy"}, "4"]},
    ],
)
def test_reasoning_becomes_a_thinking_part(turn: dict[str, Any]) -> None:
    said = read_conversation({"messages": [ASKED, {"role": "assistant", **turn}]})

    assert said.messages[1]["content"] == [
        {"type": "thinking", "thinking": "easy"},
        {"type": "text", "text": "4"},
    ]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
        {"id": "c1", "function": {"name": "add", "arguments": {"a": 2}}},
        {"id": "c1", "name": "add", "arguments": {"a": 2}},
        {"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 2}},
    ],
)
def test_both_shapes_of_tool_calls_are_read(call: dict[str, Any]) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "4"}
    spoken = {"role": "assistant", "content": None, "tool_calls": [call]}

    said = read_conversation({"messages": [ASKED, spoken, result, REPLIED]})

    assert said.messages[1]["tool_calls"] == [{"id": "c1", "name": "add", "arguments": '{"a": 2}'}]
    assert said.messages[2] == result


def test_a_trajectory_contains_its_tool_results() -> None:
    call = {"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 2}}
    observed = {"results": [{"source_call_id": "c1", "content": "4"}]}
    steps = [
        {"step_id": 1, "source": "system", "message": "You count."},
        {"step_id": 2, "source": "user", "message": "2+2?"},
        {
            "step_id": 3,
            "source": "agent",
            "message": "",
            "reasoning_content": "call it",
            "tool_calls": [call],
            "observation": observed,
        },
        {"step_id": 4, "source": "agent", "message": "4"},
    ]

    said = read_conversation({"schema_version": "ATIF-v1.2", "session_id": "s", "steps": steps})

    assert [m["role"] for m in said.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert said.messages[3] == {
        "role": "tool",
        "content": "4",
        "tool_call_id": "c1",
        "name": "add",
    }


def test_tools_are_read_in_both_shapes() -> None:
    spec = {"name": "add", "description": "", "parameters": {"type": "object"}}
    plain = {"messages": [ASKED, REPLIED], "tools": [spec]}
    wrapped = {"messages": [ASKED, REPLIED], "tools": [{"type": "function", "function": spec}]}
    text = {"messages": [ASKED, REPLIED], "tools": json.dumps([spec])}

    assert read_conversation(plain).tools == [spec]
    assert read_conversation(wrapped).tools == [spec]
    assert read_conversation(text).tools == [spec]


def test_a_row_may_mark_its_trained_messages() -> None:
    again = [ASKED, {**REPLIED, "weight": 0}, ASKED, REPLIED]

    said = read_conversation({"messages": again, "system": "Be brief."})

    assert said.chosen == {4}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "hello"}, "use `format: text`"),
        ({"prompt": "hello"}, "no answer"),
        ({"answer": "hello"}, "no prompt"),
        ({"prompt": "hello", "answer": None}, "no answer"),
        ({"prompt": "hello", "answer": ""}, "an empty answer"),
        ({"prompt": "hello", "answer": {"a": 1}}, "its prompt or answer is not text"),
        ({"messages": []}, "no messages"),
        ({"messages": ["hi"]}, "a message of `messages` is `hi`, which is not an object"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "the role `narrator`"),
        ({"messages": [{"role": "user"}]}, "a message of `messages` has no content"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is `3`, neither text nor parts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "an image is `x`; write it as a `data:` URL",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "arguments of a call of `f` are not JSON",
        ),
        ({"messages": [{**REPLIED, "weight": 0.5}]}, "`weight` is `0.5`; it must be 0 or 1"),
        ({"messages": [ASKED, REPLIED], "tools": "["}, "its tools are text and not JSON"),
        (
            {"messages": [ASKED, REPLIED], "tools": [{"name": "add", "parameters": "a"}]},
            "parameters of the tool `add` are not JSON",
        ),
        ({"steps": [{"source": "moon", "message": "x"}]}, "the role `moon`"),
        ({"steps": [{"source": "agent", "tool_calls": 3}]}, "a step's `tool_calls` are `3`"),
        (
            {"steps": [{"source": "agent", "observation": {"results": "x"}}]},
            "an observation's `results` are `x`",
        ),
    ],
)
def test_an_untrainable_row_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_conversation(row)


def test_a_system_prompt_comes_first_and_marks_move_with_their_messages() -> None:
    said = read_conversation({"messages": [ASKED, {**REPLIED, "weight": 1}]})

    prompted = with_system_prompt(said, "Be brief.")

    assert prompted.messages[0] == {"role": "system", "content": "Be brief."}
    assert prompted.chosen == {2}


def test_a_system_prompt_is_joined_with_the_rows_own() -> None:
    said = read_conversation({"system": "You count.", "prompt": "2+2?", "answer": 4})

    prompted = with_system_prompt(said, "Be brief.")

    assert prompted.messages[0]["content"] == "Be brief.\n\nYou count."
    assert len(prompted.messages) == 3


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')

    assert list(read_rows(file)) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("line", ["{", "[1]", "nothing"])
def test_a_line_that_is_not_an_object_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n' + line + "\n")

    with pytest.raises(ValueError, match="Line 2 is not"):
        list(read_rows(file))
