"""What carries loss is what the row says should, in every dialect's own way of saying it."""

from typing import Any

import pytest
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.reading import read_conversation

ASK = {"role": "user", "content": "Open?"}
REPLY = {"role": "assistant", "content": "Yes."}
BAD = {"role": "assistant", "content": "Go away."}


def trained(row: dict[str, Any], train_on: str = "all_assistant_messages") -> list[str]:
    """Return the texts that carry loss."""
    said = read_conversation(row)
    return [str(said.messages[i]["content"]) for i in trained_messages(said, train_on)]


@pytest.mark.parametrize("mark", ["weight", "train", "trainable", "training", "loss"])
@pytest.mark.parametrize("off", [0, False, 0.0])
def test_every_mark_applies_to_messages_and_to_sharegpt(mark: str, off: Any) -> None:
    chat = {"messages": [ASK, {**BAD, mark: off}, ASK, REPLY]}
    shared = {
        "conversations": [
            {"from": "human", "value": "Open?"},
            {"from": "gpt", "value": "Go away.", mark: off},
            {"from": "human", "value": "Open?"},
            {"from": "gpt", "value": "Yes."},
        ]
    }

    assert trained(chat) == trained(shared) == ["Yes."]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": True}, {"loss": False}])
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_marks_on_other_messages_do_not_replace_train_on(mark: dict[str, Any], role: str) -> None:
    other = {"role": role, "content": "x", **mark}
    row = {"messages": [ASK, REPLY, other, ASK, {**REPLY, "content": "Goodbye."}]}

    assert trained(row, "last_assistant_message") == ["Goodbye."]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK, BAD, ASK], "completion": [REPLY]},
        {"prompt": [ASK, {**BAD, "weight": 1}, ASK], "completion": "Yes."},
        {"prompt": [ASK, BAD, ASK], "completion": [REPLY], "system": "Be brief."},
        {"prompt": [ASK, BAD, {"role": "tool", "content": "x"}], "completion": [REPLY]},
    ],
)
@pytest.mark.parametrize(
    "train_on", ["all_assistant_messages", "last_assistant_message", "last_assistant_turn"]
)
def test_only_the_completion_of_a_pair_carries_loss(row: dict[str, Any], train_on: str) -> None:
    assert trained(row, train_on) == ["Yes."]


def test_a_completion_with_a_tool_call_carries_loss_in_all_its_messages() -> None:
    call = {"name": "open", "arguments": {}}
    completion = [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "content": "true"},
        REPLY,
    ]

    row = {"prompt": [ASK], "completion": completion}

    assert trained(row, "last_assistant_message") == ["Let me see.", "Yes."]


@pytest.mark.parametrize(
    "label",
    [
        {"label": False},
        {"label": 0},
        {"label": "false"},
        {"is_preferred": False},
        {"kto_tag": False},
        {"preferred": False},
        {"thumbs_up": False},
        {"is_correct": 0},
        {"label": "bad"},
        {"desirable": "No"},
    ],
)
@pytest.mark.parametrize(
    "row", [{"prompt": "Open?", "completion": "Go away."}, {"messages": [ASK, BAD]}]
)
def test_a_completion_labelled_false_is_left_out(
    row: dict[str, Any], label: dict[str, Any]
) -> None:
    with pytest.raises(Unusable, match=f"^a bad answer: its `{next(iter(label))}`"):
        read_conversation({**row, **label})


@pytest.mark.parametrize(
    ("label", "unread"),
    [
        ({"label": True}, ()),
        ({"label": 1}, ()),
        ({"is_preferred": True}, ()),
        ({"label": "good"}, ()),
        ({"label": "negative"}, ("label",)),
        ({"label": "greeting"}, ("label",)),
        ({"label": 7}, ("label",)),
    ],
)
def test_a_completion_labelled_true_is_trained_and_a_class_label_is_not_read(
    label: dict[str, Any], unread: tuple[str, ...]
) -> None:
    said = read_conversation({"prompt": "Open?", "completion": "Yes.", **label})

    assert said.unread == unread


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Open?", "chosen": "Yes.", "rejected": "Go away."},
        {"prompt": [ASK], "chosen": [REPLY], "rejected": [BAD]},
        {"chosen": [ASK, REPLY], "rejected": [ASK, BAD]},
        {"messages": [ASK, REPLY], "rejected_response": "Go away."},
        {
            "conversations": [{"from": "human", "value": "Open?"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "Go away."},
        },
        {
            "input": {"messages": [ASK]},
            "preferred_output": [REPLY],
            "non_preferred_output": [BAD],
        },
    ],
)
def test_a_preference_row_is_refused_with_the_way_to_train_on_it(row: dict[str, Any]) -> None:
    with pytest.raises(
        Unusable, match=r"a preference row .* takes one answer; keep the better one"
    ):
        read_conversation(row)


@pytest.mark.parametrize("weight", [0.5, 1, 2.0])
def test_a_rows_weight_is_applied(weight: float) -> None:
    assert read_conversation(
        {"prompt": "Open?", "completion": "Yes.", "weight": weight}
    ).weight == (weight)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (0, "its `weight` is 0"),
        (-0.1, "its `weight` is `-0.1`; it must be from 0 to 10"),
        (350, "its `weight` is `350`; it must be"),
        ("heavy", "its `weight` is `heavy`; it must be"),
    ],
)
def test_a_row_of_weight_zero_is_left_out(weight: Any, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_conversation({"messages": [ASK, REPLY], "weight": weight})


@pytest.mark.parametrize(
    "mark",
    [
        {"train_detail": []},
        {"learn": False},
        {"ignore": True},
        {"loss_weight": 2},
        {"mask": True},
        {"is_masked": False, "loss_masked": 1},
        {"weight": 0.5},
        {"train": "yes"},
        {"weight": 0, "train": True},
    ],
)
def test_an_unsupported_mark_is_refused_by_name(mark: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match=next(iter(mark)) if "is_masked" not in mark else "mask"):
        read_conversation({"messages": [ASK, {**REPLY, **mark}]})


@pytest.mark.parametrize("name", ["loss_mask", "sample_weight", "assistant_masks", "train"])
def test_an_unknown_mark_of_a_row_is_refused_by_name(name: str) -> None:
    with pytest.raises(Unusable, match=f"the mark `{name}`"):
        read_conversation({"messages": [ASK, REPLY], name: 1})


def test_messages_that_an_agent_copied_carry_no_loss() -> None:
    steps = [
        {"source": "user", "message": "Open?"},
        {"source": "agent", "message": "Go away.", "is_copied_context": True},
        {"source": "user", "message": "Open?"},
        {"source": "agent", "message": "Yes.", "is_copied_context": False},
    ]

    assert trained({"steps": steps}) == ["Yes."]


def test_an_empty_message_without_loss_is_accepted() -> None:
    quiet = {"role": "assistant", "content": "", "weight": 0}

    assert trained({"messages": [ASK, quiet, ASK, REPLY]}) == ["Yes."]
