"""Whatever JSON a row holds, it is trained on or counted with a reason: it never ends the check."""

import json
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.dialects.openai import ROLES
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.prompts import prompt, turns
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.rows import encodable, usable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXT = st.text(max_size=8)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ANY = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


def mostly(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, each as it should be or anything at all."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(right, right, ANY) for name, right in fields.items()}
    )


CALL = mostly(
    id=TEXT,
    name=TEXT,
    arguments=st.dictionaries(TEXT, ANY, max_size=2) | TEXT,
    function=mostly(name=TEXT, arguments=ANY),
    tool_call_id=TEXT,
    function_name=TEXT,
)
PART = mostly(type=st.sampled_from(["text", "thinking", "image_url"]), text=TEXT, thinking=TEXT)
MESSAGE = mostly(
    role=st.sampled_from(sorted(ROLES)),
    content=TEXT | st.lists(PART, max_size=2),
    tool_calls=st.lists(CALL, max_size=2),
    tool_call_id=TEXT,
    name=TEXT,
    weight=st.sampled_from([0, 1]),
    reasoning_content=TEXT,
)
STEP = mostly(
    source=st.sampled_from(["user", "agent", "system"]),
    message=TEXT,
    tool_calls=st.lists(CALL, max_size=2),
    observation=mostly(results=st.lists(mostly(source_call_id=TEXT, content=TEXT), max_size=2)),
)
TOOL = mostly(name=TEXT, parameters=ANY, description=TEXT, function=mostly(name=TEXT))
ROW = mostly(
    messages=st.lists(MESSAGE, max_size=3),
    conversations=st.lists(mostly(**{"from": st.sampled_from(["human", "gpt"]), "value": TEXT})),
    steps=st.lists(STEP, max_size=3),
    prompt=TEXT | st.lists(MESSAGE, max_size=2),
    response=TEXT | st.lists(MESSAGE, max_size=2),
    instruction=TEXT,
    input=TEXT,
    output=TEXT,
    system=TEXT,
    tools=st.lists(TOOL, max_size=2),
    reward=st.integers(),
    success=st.booleans(),
)
# The seed is fixed: a failure is a bug that was there before, and not of the change at hand.
many = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def stand_in(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))


@given(row=ROW)
@many
def test_any_row_is_rendered_or_reported_as_unusable(
    row: dict[str, Any], stand_in: Rendering
) -> None:
    row = json.loads(json.dumps(row))
    try:
        said = read_conversation(usable(encodable(row)))
        examples, _ = stand_in.examples(
            said, row=1, max_length=200, train_on="all_assistant_messages"
        )
    except Unusable:
        return
    assert examples


@given(row=ROW)
@many
def test_any_row_gives_a_prompt_or_is_reported_as_unusable(
    row: dict[str, Any], stand_in: Rendering
) -> None:
    row = json.loads(json.dumps(row))
    for read in (lambda: [prompt(1, row)], lambda: list(turns(1, row))):
        try:
            found = read()
        except Unusable:
            continue
        assert all(each.conversation.messages for each in found)


def test_a_lone_surrogate_is_counted_and_does_not_end_the_check() -> None:
    row = json.loads('{"prompt": "a \\ud83d b", "answer": "c"}')

    with pytest.raises(Unusable, match="half a character"):
        usable(encodable(row))
    assert encodable({"prompt": "😀\0"}) == {"prompt": "😀\0"}


HALF = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\ud83d"}]
CALLED = {"name": "f", "arguments": '{"x": "\\ud83d"}'}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": json.dumps(HALF)},
        {"messages": json.dumps(HALF), "system": "Answer in <b>."},
        {"messages": [HALF[0], {"role": "assistant", "tool_calls": [CALLED]}]},
    ],
)
def test_a_lone_surrogate_in_json_within_text_is_found_when_the_row_is_rendered(
    row: dict[str, Any], stand_in: Rendering
) -> None:
    said = read_conversation(usable(encodable(row)))

    with pytest.raises(Unusable, match="half a character"):
        stand_in.examples(said, row=1, max_length=200)
