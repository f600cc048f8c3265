"""Rows to prompts, and what is expected of the answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.prompts import Prompt, PromptSettings, prepare_prompts, prompt, turns
from dreadnode_runtime.errors import JobFailed

ASK = [{"role": "user", "content": "2+2?"}]
TOLD = {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    ("row", "question", "expected", "paid"),
    [
        ({"prompt": "2+2?"}, "2+2?", None, None),
        ({"question": "2+2?", "answer": 4}, "2+2?", "4", None),
        ({"input": "2+2?", "expected_output": 0}, "2+2?", "0", None),
        ({"messages": ASK, "prompt": "other", "target": "4"}, "2+2?", "4", None),
        ({"messages": [*ASK, TOLD]}, "2+2?", "4", None),
        ({"prompt": ASK, "completion": [TOLD]}, "2+2?", "4", None),
        ({"instruction": "Add.", "input": "2+2"}, "Add.\n\n2+2", None, None),
        ({"prompt": "2+2?", "reward": True}, "2+2?", None, 1.0),
        ({"prompt": "2+2?", "reward": "1"}, "2+2?", None, None),
        ({"prompt": "2+2?", "reward": 0}, "2+2?", None, 0.0),
    ],
)
def test_every_common_shape_of_a_row_is_a_prompt(
    row: dict[str, Any], question: str, expected: str | None, paid: float | None
) -> None:
    found = prompt(3, row)

    assert found.conversation.messages[-1] == {"role": "user", "content": question}
    assert (found.expected, found.reward, found.row) == (expected, paid, 3)
    assert found.data == row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "4"}, "no prompt"),
        ({"prompt": ""}, "no prompt"),
        ({"messages": [TOLD]}, "begins with the assistant"),
        ({"messages": [*ASK, TOLD], "answer": "four"}, "cannot continue a message"),
        ({"prompt": [*ASK, TOLD], "answer": "four"}, "ends with an assistant message"),
        ({"prompt": {"a": 1}}, "its prompt or answer is not text"),
        ({"prompt": "x", "reward": float("nan")}, "its reward is not a finite number"),
    ],
)
def test_a_row_without_a_question_is_unusable(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        prompt(1, row)


def test_a_rows_system_prompt_comes_before_its_question() -> None:
    found = prompt(1, {"prompt": "2+2?", "system": "Be brief."})

    assert [message["role"] for message in found.conversation.messages] == ["system", "user"]


TRAJECTORY: dict[str, Any] = {
    "steps": [
        {"source": "user", "message": "list"},
        {"source": "agent", "message": "ls"},
        {"source": "user", "message": "again"},
        {"source": "agent", "message": "ls -l"},
    ]
}


@pytest.mark.parametrize(
    ("more", "paid"),
    [({}, 1.0), ({"success": False}, 0.0), ({"success": False, "reward": 0.4}, 0.4)],
)
def test_each_turn_of_a_trajectory_becomes_a_prompt(more: dict[str, Any], paid: float) -> None:
    found = list(turns(2, TRAJECTORY | more))

    assert [(len(each.conversation.messages), each.expected) for each in found] == [
        (1, "ls"),
        (3, "ls -l"),
    ]
    assert {each.reward for each in found} == {paid}


def test_a_turn_that_only_calls_a_tool_has_no_expected_answer() -> None:
    call = {"id": "1", "name": "ls", "arguments": "{}"}
    silent = {"source": "agent", "message": "", "tool_calls": [call]}
    steps = [TRAJECTORY["steps"][0], silent]

    assert len(list(turns(1, {"steps": [*steps, *TRAJECTORY["steps"][2:]]}))) == 1
    with pytest.raises(Unusable, match="the assistant says nothing"):
        list(turns(1, {"steps": steps}))


@pytest.fixture
def prepared(tiny_model: Path, tmp_path: Path) -> Any:
    def prepare(rows: list[Any], **how: Any) -> Any:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        rendering = load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))
        kept = {"trajectories": how.pop("trajectories", False)}
        limits = {"max_length": 100, "max_new_tokens": 20, "check": lambda _: None, **how}
        prompts: list[Prompt] = []
        counts = prepare_prompts(file, PromptSettings(rendering, **limits), prompts.append, **kept)
        return prompts, counts

    return prepare


def test_a_prompt_that_leaves_no_room_for_a_completion_is_left_out_and_named(prepared: Any) -> None:
    prompts, counts = prepared([{"prompt": "x" * 200}, {"prompt": "hi"}, {"no": 1}])

    assert [each.row for each in prompts] == [2]
    assert (counts.rows, counts.usable) == (3, 1)
    assert counts.first_dropped == {
        "the prompt and 20 new tokens do not fit into 100 tokens": [1],
        "no prompt; the row has `no`": [3],
    }
    assert counts.tokens == len(prompts[0].tokens)


def test_strict_refuses_the_job_for_one_unusable_prompt(prepared: Any) -> None:
    with pytest.raises(
        JobFailed, match=r"1 of 2 cannot be used: no prompt; the row has `no` \(row 2\)$"
    ):
        prepared([{"prompt": "hi"}, {"no": 1}], strict=True)


def test_a_file_without_a_usable_prompt_is_refused(prepared: Any) -> None:
    def check(_: Prompt) -> None:
        raise Unusable("no expected answer")

    with pytest.raises(
        JobFailed, match=r"None of the 2 rows gives a prompt to train on; 2 of them: no exp"
    ):
        prepared([{"prompt": "hi"}, {"prompt": "ho"}], check=check)


def test_prompts_are_rendered_in_the_models_own_format(prepared: Any, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    (first,), _ = prepared([{"prompt": "hi"}], system_prompt="Be brief.")

    written = AutoTokenizer.from_pretrained(tiny_model).decode(first.tokens)
    assert written == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
