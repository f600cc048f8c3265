"""Rows of every dialect are read into one normal form, and nothing of them is lost in silence."""

import json
from typing import Any

import pytest
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.reading import read_conversation, read_question

ASK = {"role": "user", "content": "Low tide?"}
REPLY = {"role": "assistant", "content": "At 6:10."}
SCHEMA = {"type": "object", "properties": {"day": {"type": "integer"}}}
TOOL = {"name": "tide", "parameters": SCHEMA}
CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"day": 0}'}}
CALLED = {"id": "c1", "name": "tide", "arguments": '{"day": 0}'}


def talk(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the roles and contents that ROW is read as."""
    return [(each["role"], each["content"]) for each in read_conversation(row).messages]


def calls(said: Conversation) -> list[list[dict[str, Any]]]:
    """Return the calls of each message that has any, without ids."""
    return [
        [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in made]
        for message in said.messages
        if (made := message.get("tool_calls"))
    ]


TOOL_TALKS: dict[str, dict[str, Any]] = {
    "openai tools": {
        "messages": [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "6:10"},
            REPLY,
        ],
        "tools": [{"type": "function", "function": TOOL}],
    },
    "tool calls as JSON text": {
        "messages": [
            ASK,
            {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
            {"role": "tool", "tool_call_id": "c1", "content": "6:10"},
            REPLY,
        ],
        "tools": json.dumps([{"type": "function", "function": TOOL}]),
    },
    "openai functions": {
        "messages": [
            ASK,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "tide", "arguments": '{"day": 0}'},
            },
            {"role": "function", "name": "tide", "content": "6:10"},
            REPLY,
        ],
        "functions": [TOOL],
    },
    "anthropic": {
        "messages": [
            ASK,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "tide", "input": {"day": 0}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "6:10"}],
            },
            REPLY,
        ],
        "tools": [{"name": "tide", "input_schema": SCHEMA}],
    },
    "anthropic, a result in blocks, a schema as MCP writes it": {
        "messages": [
            ASK,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "tide", "input": {"day": 0}}],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "6:10"}],
                        "is_error": False,
                    }
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "At 6:10."}]},
        ],
        "tools": [{"name": "tide", "inputSchema": SCHEMA}],
    },
    "gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": "Low tide?"}]},
            {
                "role": "model",
                "parts": [{"functionCall": {"name": "tide", "args": {"day": 0}}}],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"name": "tide", "response": "6:10"}}],
            },
            {"role": "model", "parts": [{"text": "At 6:10."}]},
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "tide",
                        "parameters": {
                            "type": "OBJECT",
                            "properties": {"day": {"type": "INTEGER"}},
                        },
                    }
                ]
            }
        ],
    },
    "gemini, snake case": {
        "contents": [
            {"role": "user", "parts": [{"text": "Low tide?"}]},
            {"role": "model", "parts": [{"function_call": {"name": "tide", "args": {"day": 0}}}]},
            {
                "role": "function",
                "parts": [{"function_response": {"name": "tide", "response": "6:10"}}],
            },
            {"role": "model", "parts": [{"text": "At 6:10."}]},
        ],
        "tools": [{"function_declarations": [TOOL]}],
    },
    "sharegpt of LLaMA-Factory": {
        "conversations": [
            {"from": "human", "value": "Low tide?"},
            {"from": "function_call", "value": '{"name": "tide", "arguments": {"day": 0}}'},
            {"from": "observation", "value": "6:10"},
            {"from": "gpt", "value": "At 6:10."},
        ],
        "tools": json.dumps([TOOL]),
    },
    "ms-swift": {
        "messages": [
            ASK,
            {"role": "tool_call", "content": '{"name": "tide", "arguments": {"day": 0}}'},
            {"role": "tool_response", "content": "6:10"},
            REPLY,
        ],
        "tools": json.dumps([{"type": "function", "function": TOOL}]),
    },
    "a list of calls, from and content": {
        "conversations": [
            {"from": "human", "content": "Low tide?"},
            {"from": "tool_call", "content": '[{"name": "tide", "arguments": {"day": 0}}]'},
            {"role": "observation", "value": "6:10"},
            {"role": "gpt", "value": "At 6:10."},
        ],
        "tool_defs": [TOOL],
    },
    "a call as an object": {
        "conversations": [
            {"from": "human", "value": "Low tide?"},
            {"from": "function_call", "value": {"name": "tide", "arguments": {"day": 0}}},
            {"from": "tool", "value": "6:10"},
            {"from": "gpt", "value": "At 6:10."},
        ],
        "tools": [TOOL],
    },
    "atif": {
        "schema_version": "ATIF-v1.5",
        "agent": {"name": "a", "version": "1", "tool_definitions": [TOOL]},
        "steps": [
            {"step_id": 1, "source": "user", "message": "Low tide?"},
            {
                "step_id": 2,
                "source": "agent",
                "message": "",
                "tool_calls": [
                    {"tool_call_id": "x", "function_name": "tide", "arguments": {"day": 0}}
                ],
                "observation": {"results": [{"source_call_id": "x", "content": "6:10"}]},
            },
            {"step_id": 3, "source": "agent", "message": "At 6:10."},
        ],
    },
}


@pytest.mark.parametrize("row", TOOL_TALKS.values(), ids=TOOL_TALKS)
def test_a_conversation_with_a_tool_is_the_same_in_every_dialect(row: dict[str, Any]) -> None:
    said = read_conversation(row)

    assert talk(row) == [
        ("user", "Low tide?"),
        ("assistant", ""),
        ("tool", "6:10"),
        ("assistant", "At 6:10."),
    ]
    assert calls(said) == [[{"name": "tide", "arguments": {"day": 0}}]]
    assert said.messages[2]["name"] == "tide"
    assert said.tools == [TOOL]
    assert trained_messages(said, "all_assistant_messages") == [1, 3]


@pytest.mark.parametrize("name", [name for name in TOOL_TALKS if name != "atif"])
def test_every_field_of_a_conversation_with_a_tool_is_read(name: str) -> None:
    assert read_conversation(TOOL_TALKS[name]).unread == ()


def test_unread_fields_of_a_trajectory_are_named() -> None:
    assert read_conversation(TOOL_TALKS["atif"]).unread == (
        "agent.name",
        "agent.version",
        "schema_version",
    )


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([{"tool_call_id": "b"}, {"tool_call_id": "a"}], ["sun", "tide"]),
        ([{}, {}], ["tide", "sun"]),
        ([{"tool_call_id": "a", "name": "mine"}, {}], ["mine", "sun"]),
        ([{"name": "sun"}, {}], ["sun", "tide"]),
        ([{"tool_call_id": "unknown"}], [None]),
    ],
)
def test_a_tool_result_gets_the_name_of_its_call(
    results: list[dict[str, str]], names: list[str | None]
) -> None:
    made = [{"id": "a", "name": "tide"}, {"id": "b", "name": "sun"}]
    row = {
        "messages": [
            ASK,
            {"role": "assistant", "tool_calls": made},
            *({"role": "tool", "content": "x", **result} for result in results),
            REPLY,
        ]
    }

    found = [m.get("name") for m in read_conversation(row).messages if m["role"] == "tool"]

    assert found == names


def test_text_before_a_tool_call_belongs_to_the_same_message() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Tides?"},
            {"from": "gpt", "value": "Let me look."},
            {"from": "function_call", "value": '{"name": "tide", "arguments": {"day": 0}}'},
            {"from": "function_call", "value": '{"name": "tide", "arguments": {"day": 1}}'},
            {"from": "observation", "value": "6:10"},
            {"from": "observation", "value": "7:02"},
            {"from": "gpt", "value": "6:10 and 7:02."},
        ]
    }

    said = read_conversation(row)

    assert [m["role"] for m in said.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert said.messages[1]["content"] == "Let me look."
    assert len(said.messages[1]["tool_calls"]) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "{}"),
        (" \n", "{}"),
        (None, "{}"),
        ({}, "{}"),
        ('{"ort":"Köln"}', '{"ort":"Köln"}'),
        ({"ort": "Köln"}, '{"ort": "Köln"}'),
        ('{"x": null}', '{"x": null}'),
    ],
)
def test_arguments_are_the_json_text_of_an_object(arguments: Any, text: str) -> None:
    call = {"name": "tide", "arguments": arguments}
    said = read_conversation({"messages": [ASK, {"role": "assistant", "tool_calls": [call]}]})

    assert said.messages[1]["tool_calls"][0]["arguments"] == text


TIME = {"type": "object", "properties": {"m": {"type": ["integer", "null"]}}}


@pytest.mark.parametrize(
    ("arguments", "schema", "kept"),
    [
        ({"on": True, "x": None}, {"on": {"type": "boolean"}}, {"on": True}),
        ({"on": None}, {"on": {"type": ["boolean", "null"]}}, {"on": None}),
        ({"at": {"h": 1, "m": None}}, {"at": {"properties": {"h": {}}}}, {"at": {"h": 1}}),
        ({"of": [{"a": 1, "b": None}]}, {"of": {"items": {"properties": {"a": {}}}}}, None),
        (
            {"at": {"m": None, "x": None}},
            {"at": {"anyOf": [{"type": "null"}, {"$ref": "#/properties/time"}]}, "time": TIME},
            {"at": {"m": None}},
        ),
        ({"to": {"m": None, "x": None}}, {"to": {"allOf": [TIME]}}, {"to": {"m": None}}),
        (
            {"of": {"x": None}},
            {"of": {"additionalProperties": {"type": "null"}}},
            {"of": {"x": None}},
        ),
        ({"at": {"x": None}}, {"at": {"$ref": "#/properties/at"}}, {"at": {}}),
    ],
)
def test_nulls_that_a_tools_schema_does_not_contain_are_not_trained(
    arguments: dict[str, Any], schema: dict[str, Any], kept: dict[str, Any] | None
) -> None:
    call = {"id": "1", "function": {"name": "light", "arguments": arguments}}
    tool = {"name": "light", "parameters": {"type": "object", "properties": schema}}
    row = {"messages": [ASK, {"role": "assistant", "tool_calls": [call]}], "tools": [tool]}

    said = read_conversation(row)

    written = json.loads(said.messages[1]["tool_calls"][0]["arguments"])
    assert written == (kept or {"of": [{"a": 1}]})
    assert bool(said.notes) == (written != arguments)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"name": "tide", "strict": True, "parameters": SCHEMA}, None),
        ({"name": "tide"}, None),
        ({"name": "tide", "description": "", "parameters": {}}, None),
        ({"name": "tide", "description": None, "parameters": SCHEMA}, TOOL),
        (
            {"name": "tide", "parameters": {"properties": {"day": True, "note": None}}},
            {"name": "tide", "parameters": {"properties": {"day": True}}},
        ),
        (
            {
                "name": "tide",
                "parameters": {"properties": {"default": None, "a": {"type": "x", "b": None}}},
            },
            {"name": "tide", "parameters": {"properties": {"a": {"type": "x"}}}},
        ),
        (
            {"name": "t", "parameters": {"properties": {"a": {"type": "string", "default": None}}}},
            {"name": "t", "parameters": {"properties": {"a": {"type": "string"}}}},
        ),
        (
            {
                "name": "t",
                "parameters": {
                    "properties": {
                        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
                    }
                },
            },
            None,
        ),
        ({"name": "t", "parameters": {"properties": {"a": {"enum": [None, "x"]}}}}, None),
        (
            {"name": "tide", "parameters": json.dumps(SCHEMA)},
            TOOL,
        ),
    ],
)
def test_tools_are_read_as_the_row_gives_them(
    given: dict[str, Any], kept: dict[str, Any] | None
) -> None:
    for tools in ([given], [{"type": "function", "function": given}], json.dumps([given])):
        assert read_conversation({"messages": [ASK, REPLY], "tools": tools}).tools == [
            kept or given
        ]


def test_calls_of_an_undescribed_tool_are_reported() -> None:
    row = {"messages": [ASK, {"role": "assistant", "tool_calls": [CALL]}]}

    assert read_conversation({**row, "tools": [TOOL]}).notes == ()
    assert read_conversation({**row, "tools": None, "tool_defs": [TOOL]}).tools == [TOOL]
    assert read_conversation(row).notes == ("tools are called and none is described",)


@pytest.mark.parametrize(
    ("fields", "system"),
    [
        ({"system": "Be brief."}, "Be brief."),
        ({"system": [{"type": "text", "text": "Be brief."}]}, "Be brief."),
        (
            {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Smile."}]},
            "Be brief.\n\nSmile.",
        ),
        ({"system_instruction": {"parts": [{"text": "Be brief."}]}}, "Be brief."),
        ({"systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]}}, "Be brief."),
        ({"system_prompt": "Be brief.", "system": ""}, "Be brief."),
        ({"system": "Be brief.", "system_prompt": "Smile."}, "Be brief.\n\nSmile."),
        ({"system": {"text": "Be brief."}}, "Be brief."),
    ],
)
def test_system_prompts_of_every_form_become_one_message(
    fields: dict[str, Any], system: str
) -> None:
    said = read_conversation({"messages": [ASK, REPLY], **fields})

    assert said.messages[0] == {"role": "system", "content": system}
    assert len(said.messages) == 3
    assert said.unread == ()


@pytest.mark.parametrize("second", ["system", "developer"])
def test_system_messages_at_the_start_are_joined_and_later_ones_keep_their_place(
    second: str,
) -> None:
    row = {
        "system": "One.",
        "messages": [
            {"role": "system", "content": "Two."},
            {"role": second, "content": "Three."},
            ASK,
            {"role": second, "content": "Later."},
            REPLY,
        ],
    }

    assert talk(row) == [
        ("system", "One.\n\nTwo.\n\nThree."),
        ("user", "Low tide?"),
        ("system", "Later."),
        ("assistant", "At 6:10."),
    ]


THOUGHT = [{"type": "thinking", "thinking": "Add."}, {"type": "text", "text": "4."}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, {"role": "assistant", "content": "<think>Add.</think>4."}]},
        {"messages": [ASK, {"role": "assistant", "content": "\n<think>\nAdd.\n</think>\n\n4."}]},
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": "<think>Add.</think>4.",
                    "reasoning_content": "Add.",
                },
            ]
        },
        {"messages": [ASK, {"role": "assistant", "content": "4.", "reasoning": "Add."}]},
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": "4.",
                    "reasoning": "Add.",
                    "reasoning_content": "Add.",
                },
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "<think>Add.</think>\n4."},
            ]
        },
        {"prompt": "2+2?", "completion": "<think>Add.</think>4."},
        {
            "prompt": [ASK],
            "completion": [{"role": "assistant", "content": "<think>Add.</think>4."}],
        },
        {"instruction": "2+2?", "output": "<think>Add.</think>4."},
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "<think>Add."},
                        {"type": "text", "text": "</think>4."},
                    ],
                },
            ]
        },
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Add.", "signature": ""},
                        {"type": "text", "text": "4."},
                    ],
                },
            ]
        },
        {
            "contents": [
                {"role": "user", "parts": [{"text": "2+2?"}]},
                {"role": "model", "parts": [{"text": "Add.", "thought": True}, {"text": "4."}]},
            ]
        },
        {
            "steps": [
                {"source": "user", "message": "2+2?"},
                {"source": "agent", "message": "<think>Add.</think>4."},
            ]
        },
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": "<think>Add.</think><think>Add.</think>4."},
            ]
        },
    ],
)
def test_reasoning_is_read_from_every_shape(row: dict[str, Any]) -> None:
    said = read_conversation(row)

    assert said.messages[-1]["content"] == THOUGHT
    assert said.unread == ()


@pytest.mark.parametrize(
    "text",
    ["It is </think> here.", "Use <think> first.", "Add.</think>4.", "`<think>`a`</think>`"],
)
def test_a_tag_mentioned_in_the_text_stays_text(text: str) -> None:
    row = {"messages": [ASK, {"role": "assistant", "content": text}]}

    assert read_conversation(row).messages[1]["content"] == text


def test_a_tag_in_a_user_message_stays_text() -> None:
    asked = {"role": "user", "content": "<think>a</think>b"}

    assert read_conversation({"messages": [asked, REPLY]}).messages[0] == asked


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "4.", "reasoning_content": " \n"},
        {"content": "<think> \n</think>4."},
        {"content": "<think></think>\n\n4.", "reasoning": ""},
        {"content": [{"type": "thinking", "thinking": ""}, {"type": "text", "text": "4."}]},
    ],
)
def test_empty_reasoning_is_dropped(turn: dict[str, Any]) -> None:
    said = read_conversation({"messages": [ASK, {"role": "assistant", **turn}]})

    assert said.messages[1]["content"] == "4."


PAIRS = [
    {"prompt": "2+2?", "response": "4"},
    {"problem": "2+2?", "solution": "4"},
    {"query": "2+2?", "response": "4"},
    {"inputs": "2+2?", "targets": "4"},
    {"text_input": "2+2?", "output": "4"},
    {"question": "2+2?", "answer": "4"},
    {"user": "2+2?", "assistant": "4"},
    {
        "contents": [
            {"role": "user", "parts": [{"text": "2+2?"}]},
            {"role": "model", "parts": [{"text": "4"}]},
        ]
    },
    {"messages": json.dumps([{"role": "user", "content": "2+2?"}, {"role": "ai", "content": "4"}])},
    {"conversations": '[{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]'},
    {"messages": [], "prompt": "2+2?", "response": "4"},
    {"prompt": json.dumps([{"role": "user", "content": "2+2?"}]), "completion": "4"},
    {"prompt": "2+2?", "completion": ' [ {"role": "assistant", "content": "4"}]'},
]


@pytest.mark.parametrize("text", ['[{"day": 0}]', "[{role: user}]", '[{"role": "x"}, 1]', "[1]"])
def test_a_list_that_holds_no_messages_is_text(text: str) -> None:
    assert talk({"prompt": text, "response": text}) == [("user", text), ("assistant", text)]


def test_a_call_that_is_written_as_text_is_doubted() -> None:
    said = '<tool_call>\n{"name": "tide", "arguments": {}}\n</tool_call>'

    read = read_conversation({"messages": [ASK, {"role": "assistant", "content": said}]})

    assert read.messages[1]["content"] == said
    assert read.notes == (
        "<tool_call> in an answer is trained as text; write calls as `tool_calls`",
    )


@pytest.mark.parametrize("row", PAIRS, ids=lambda row: "+".join(row))
def test_common_pairs_and_columns_are_read(row: dict[str, Any]) -> None:
    assert talk(row) == [("user", "2+2?"), ("assistant", "4")]
    assert read_conversation(row).unread == ()


def test_a_conversation_takes_precedence_over_a_pair_whose_fields_are_then_unread() -> None:
    row = {"messages": json.dumps([ASK, REPLY]), "prompt": "q", "answer": "z"}

    said = read_conversation(row)

    assert said.messages == [ASK, REPLY]
    assert said.unread == ("prompt", "answer")


@pytest.mark.parametrize(
    ("row", "asked", "unread"),
    [
        ({"instruction": "Who?", "context": "The board."}, "Who?\n\nThe board.", ()),
        ({"question": "Who?", "context": "The board."}, "Who?\n\nThe board.", ()),
        ({"instruction": "Who?", "input": "A", "context": "B"}, "Who?\n\nA\n\nB", ()),
        ({"question": "Who?", "context": ["A", "", "B"]}, "Who?\n\nA\n\nB", ()),
        ({"question": "Who?", "input": "A"}, "Who?\n\nA", ()),
        ({"instruction": "Who?", "context": "", "category": "qa"}, "Who?", ("category",)),
        ({"question": "Who?", "documents": ["a"]}, "Who?", ("documents",)),
        ({"question": "Who?", "choices": {"text": ["a"]}}, "Who?", ("choices",)),
        ({"prompt": "Who?", "reasoning": "because"}, "Who?", ("reasoning",)),
        ({"prompt": "Who?", "id": 0, "score": False, "tags": []}, "Who?", ("id", "score")),
        ({"prompt": "Who?", "meta": {"a": None, "b": [""]}}, "Who?", ()),
    ],
)
def test_context_is_read_and_every_unread_field_is_named(
    row: dict[str, Any], asked: str, unread: tuple[str, ...]
) -> None:
    said = read_conversation({**row, "response": "The board."})

    assert said.messages[0]["content"] == asked
    assert said.unread == unread


@pytest.mark.parametrize(
    ("message", "unread"),
    [
        ({"timestamp": "noon"}, "messages.timestamp"),
        ({"name": "Ada"}, "messages.name"),
        ({"annotations": [{"a": 1}]}, "messages.annotations"),
        (
            {"content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            "messages.content.cache_control",
        ),
    ],
)
def test_unread_fields_within_messages_are_named(message: dict[str, Any], unread: str) -> None:
    assert read_conversation({"messages": [{**ASK, **message}, REPLY]}).unread == (unread,)


@pytest.mark.parametrize("as_messages", [False, True])
def test_history_becomes_messages_before_the_question(*, as_messages: bool) -> None:
    history = [["Hi", "Hello."], ["Open?", "Yes."]]
    roles = ("user", "assistant")
    messages = [
        {"role": r, "content": c} for pair in history for r, c in zip(roles, pair, strict=True)
    ]
    row = {
        "instruction": "And now?",
        "output": "Later.",
        "history": messages if as_messages else history,
        "system": "Be brief.",
    }

    said = read_conversation(row)

    assert [m["content"] for m in said.messages] == [
        "Be brief.",
        "Hi",
        "Hello.",
        "Open?",
        "Yes.",
        "And now?",
        "Later.",
    ]
    assert trained_messages(said, "all_assistant_messages") == [2, 4, 6]
    assert said.unread == ()


@pytest.mark.parametrize(
    "nulls",
    [
        {"from": None, "value": None, "tool_calls": None},
        {"function_call": {"name": None, "arguments": None}, "weight": None},
        {"tool_calls": [], "train": None, "name": None},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_null_value_counts_as_absent(nulls: dict[str, Any], first: bool) -> None:
    messages = [{**nulls, **each} if first else {**each, **nulls} for each in (ASK, REPLY)]

    said = read_conversation({"messages": messages, "system": None, "weight": None, "label": None})

    assert said == read_conversation({"messages": [ASK, REPLY]})


SILENT = [
    {"messages": [ASK, {"role": "assistant", "content": ""}]},
    {"messages": [ASK, {"role": "assistant", "content": " \n"}]},
    {"messages": [ASK, {"role": "assistant", "content": []}]},
    {"messages": [ASK, {"role": "assistant", "content": None, "refusal": "I cannot."}]},
    {"messages": [ASK, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}]},
    {"messages": [ASK, {"role": "assistant", "content": "<think>Hm.</think>"}]},
    {"messages": [ASK, {"role": "assistant", "content": "", "reasoning_content": "Hm."}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]},
    {"prompt": "a", "completion": ""},
    {"prompt": "a", "completion": "\n"},
    {"prompt": [ASK], "completion": []},
    {"prompt": [ASK], "completion": [{"role": "assistant", "content": ""}]},
    {"steps": [{"source": "user", "message": "a"}, {"source": "agent", "message": ""}]},
    {"contents": [{"parts": [{"text": "a"}], "role": "user"}, {"parts": [], "role": "model"}]},
]


@pytest.mark.parametrize("row", SILENT)
def test_empty_messages_are_dropped_in_every_shape(row: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match=r"^an empty answer$"):
        trained_messages(read_conversation(row), "all_assistant_messages")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [ASK], "answer": "two"}, "two"),
        ({"messages": [ASK, REPLY]}, "At 6:10."),
        ({"messages": [ASK, {"role": "assistant", "content": "<think>a</think>b"}]}, "b"),
        ({"prompt": [ASK], "answer": [REPLY]}, "At 6:10."),
        ({"problem": "Low tide?", "solution": "long", "answer": "6"}, "6"),
        ({"contents": [{"role": "user", "parts": [{"text": "Low tide?"}]}], "target": 6}, "6"),
    ],
)
def test_a_question_is_read_with_its_expected_answer(row: dict[str, Any], expected: str) -> None:
    said, found = read_question(row)

    assert said.messages[-1] == ASK
    assert found == expected


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, {"role": "assistant", "content": "One,"}], "answer": "two"},
        {"prompt": [ASK, {"role": "assistant", "content": "One,"}], "answer": "two"},
        {"prompt": [ASK, {"role": "assistant", "content": "One,"}]},
        {
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "One,"}],
            "target": "two",
        },
    ],
)
def test_a_row_that_starts_the_assistants_message_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="ends with an assistant message"):
        read_question(row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"role": "bot", "content": "x"}, "the role `bot`"),
        ({"role": 3, "content": "x"}, "the role `3`"),
        ({"content": "x"}, "has no role"),
        ({"role": "user", "content": [{"type": "video", "url": "x"}]}, "the type `video`"),
        ({"role": "user", "content": [{"input_audio": {}}]}, "no type, and has `input_audio`"),
        ({"role": "assistant", "content": "a", "loss_mask": 1}, "the mark `loss_mask`"),
        ({"role": "assistant", "tool_calls": [{"type": "retrieval"}]}, "the type `retrieval`"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "outside an assistant"),
        ({"role": "function_call", "content": "tide()"}, "are text and not JSON"),
    ],
)
def test_a_refusal_names_the_fields_that_were_found(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_conversation({"messages": [ASK, row, REPLY]})


def test_a_row_of_unknown_columns_is_refused_with_their_names() -> None:
    with pytest.raises(Unusable, match="its fields are `Frage`, `Antwort`"):
        read_conversation({"Frage": "2+2?", "Antwort": "4", "leer": ""})
