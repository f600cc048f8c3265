"""Any conversation says the same in every dialect that can write it."""

import json
from collections.abc import Callable
from typing import Any

from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.reading import read_conversation
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "<" not in text and text.isprintable()
)
ARGUMENTS = st.dictionaries(TEXT, st.integers() | TEXT | st.booleans(), max_size=2)
EXCHANGE = st.fixed_dictionaries(
    {"ask": TEXT, "thought": st.none() | TEXT, "call": st.none() | ARGUMENTS, "answer": TEXT}
)
TALK = st.lists(EXCHANGE, min_size=1, max_size=3)
Talk = list[dict[str, Any]]


def openai(talk: Talk) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for n, each in enumerate(talk):
        messages.append({"role": "user", "content": each["ask"]})
        if each["call"] is not None:
            function = {"name": "f", "arguments": json.dumps(each["call"])}
            call = {"id": f"c{n}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": "r"})
        answer = {"role": "assistant", "content": each["answer"]}
        messages.append({**answer, "reasoning_content": each["thought"]})
    return {"messages": messages}


def tagged(talk: Talk) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for each in talk:
        turns.append({"from": "human", "value": each["ask"]})
        if each["call"] is not None:
            call = json.dumps({"name": "f", "arguments": each["call"]})
            turns.append({"from": "function_call", "value": call})
            turns.append({"from": "observation", "value": "r"})
        thought = "" if each["thought"] is None else f"<think>{each['thought']}</think>"
        turns.append({"from": "gpt", "value": thought + each["answer"]})
    return {"conversations": turns}


def anthropic(talk: Talk) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for n, each in enumerate(talk):
        messages.append({"role": "user", "content": [{"type": "text", "text": each["ask"]}]})
        if each["call"] is not None:
            call = {"type": "tool_use", "id": f"c{n}", "name": "f", "input": each["call"]}
            result = {"type": "tool_result", "tool_use_id": f"c{n}", "content": "r"}
            messages.append({"role": "assistant", "content": [call]})
            messages.append({"role": "user", "content": [result]})
        parts = [{"type": "text", "text": each["answer"]}]
        if each["thought"] is not None:
            parts.insert(0, {"type": "thinking", "thinking": each["thought"]})
        messages.append({"role": "assistant", "content": parts})
    return {"messages": messages}


def gemini(talk: Talk) -> dict[str, Any]:
    contents: list[dict[str, Any]] = []
    for each in talk:
        contents.append({"role": "user", "parts": [{"text": each["ask"]}]})
        if each["call"] is not None:
            call = {"functionCall": {"name": "f", "args": each["call"]}}
            result = {"functionResponse": {"name": "f", "response": "r"}}
            contents.append({"role": "model", "parts": [call]})
            contents.append({"role": "user", "parts": [result]})
        parts: list[dict[str, Any]] = [{"text": each["answer"]}]
        if each["thought"] is not None:
            parts.insert(0, {"text": each["thought"], "thought": True})
        contents.append({"role": "model", "parts": parts})
    return {"contents": contents}


def atif(talk: Talk) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for n, each in enumerate(talk):
        steps.append({"source": "user", "message": each["ask"]})
        if each["call"] is not None:
            call = {"tool_call_id": f"c{n}", "function_name": "f", "arguments": each["call"]}
            observation = {"results": [{"source_call_id": f"c{n}", "content": "r"}]}
            step = {"source": "agent", "message": "", "tool_calls": [call]}
            steps.append({**step, "observation": observation})
        answer = {"source": "agent", "message": each["answer"]}
        steps.append({**answer, "reasoning_content": each["thought"]})
    return {"steps": steps}


DIALECTS: list[Callable[[Talk], dict[str, Any]]] = [openai, tagged, anthropic, gemini, atif]
many = settings(max_examples=100, deadline=None, derandomize=True)


def said_by(row: dict[str, Any]) -> list[Any]:
    """Return what ROW says, without ids."""
    return [
        (
            message["role"],
            _parts(message["content"]),
            [(c["name"], json.loads(c["arguments"])) for c in message.get("tool_calls", [])],
            message.get("name"),
        )
        for message in read_conversation(row).messages
    ]


def _parts(content: Any) -> list[tuple[str, str]]:
    if isinstance(content, str):
        return [("text", content)]
    kinds = {"text": "text", "thinking": "thinking"}
    return [(part["type"], part[kinds[part["type"]]].strip()) for part in content]


@given(talk=TALK)
@many
def test_every_dialect_parses_to_the_same_conversation_and_every_field_is_read(talk: Talk) -> None:
    rows = [json.loads(json.dumps(dialect(talk))) for dialect in DIALECTS]

    first, *others = [[(r, _stripped(p), c, n) for r, p, c, n in said_by(row)] for row in rows]

    assert all(other == first for other in others)
    assert all(read_conversation(row).unread == () for row in rows)


def _stripped(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(kind, text.strip()) for kind, text in parts]


@given(talk=TALK, marks=st.lists(st.booleans(), min_size=3, max_size=3))
@many
def test_marked_messages_carry_loss(talk: Talk, marks: list[bool]) -> None:
    row = openai([{**each, "call": None} for each in talk])
    answers = row["messages"][1::2]
    for message, mark in zip(answers, marks, strict=False):
        message["weight"] = int(mark)
    wanted = [2 * n + 1 for n in range(len(talk)) if marks[n]]

    said = read_conversation(row)

    assert said.chosen == frozenset(wanted)
    if wanted:
        assert trained_messages(said, "last_assistant_message") == wanted


@given(talk=TALK)
@many
def test_null_columns_added_by_arrow_change_nothing(talk: Talk) -> None:
    row = openai(talk)
    names = {name for message in row["messages"] for name in message}
    padded = {
        "messages": [{**dict.fromkeys(names), **message} for message in row["messages"]],
        **dict.fromkeys(("tools", "system", "conversations", "weight", "label", "prompt")),
    }

    assert read_conversation(padded) == read_conversation(row)
