"""Conversations become the tokens that the model is served with, and only answers carry loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.errors import JobFailed
from transformers import AutoTokenizer

TALK = read_conversation(
    {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho"},
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": "done"},
        ]
    }
)
QUESTION = read_conversation({"prompt": "hi", "response": "ho"})


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def stand_in(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))


@pytest.fixture(scope="module")
def qwen3(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=False, tokenizer=str(tiny_model))


def trained_text(tokenizer: Any, tokens: Any, trained: Any) -> str:
    return str(tokenizer.decode(tokens[trained]))


def test_a_rehearsal_reports_that_it_uses_the_stand_ins_template(stand_in: Rendering) -> None:
    assert stand_in.name == "stand-in/chat-template"


def test_the_stand_in_is_trained_on_exactly_what_its_template_writes(
    stand_in: Rendering, tokenizer: Any
) -> None:
    (example,), _ = stand_in.examples(TALK, row=1, max_length=512)

    written = tokenizer.apply_chat_template(TALK.messages, return_dict=False)
    assert example.tokens.tolist() == [*written][: len(example.tokens)]
    # The newline after the last end of turn is the template's: never sampled, and not paid for.
    assert tokenizer.decode(written[len(example.tokens) :]) == "\n"
    spoken = trained_text(tokenizer, example.tokens, example.trained)
    assert spoken == "ho<|im_end|>done<|im_end|>"


def test_the_stand_ins_prompt_is_a_prefix_of_its_training_tokens(
    stand_in: Rendering, tokenizer: Any
) -> None:
    asked = Conversation(QUESTION.messages[:1])

    prompt = stand_in.prompt(asked)
    (example,), _ = stand_in.examples(QUESTION, row=1, max_length=512)

    expected = tokenizer.apply_chat_template(
        asked.messages, add_generation_prompt=True, return_dict=False
    )
    assert prompt == list(expected)
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert not example.trained[: len(prompt)].any()
    assert example.trained[len(prompt) :].sum() == 3


def test_the_catalog_model_chooses_tinker_cookbooks_renderer(
    qwen3: Rendering, tokenizer: Any
) -> None:
    (example,), _ = qwen3.examples(QUESTION, row=1, max_length=512)

    assert qwen3.name == "qwen3"
    assert tokenizer.decode(example.tokens) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nho<|im_end|>"
    )


def test_a_format_that_rewrites_history_gives_one_sequence_per_turn(qwen3: Rendering) -> None:
    examples, _ = qwen3.examples(TALK, row=7, max_length=512)

    assert len(examples) == 2
    assert {example.row for example in examples} == {7}


@pytest.mark.parametrize("rendering", ["stand_in", "qwen3"])
def test_each_row_has_the_same_weight_at_any_length(
    rendering: str, request: pytest.FixtureRequest
) -> None:
    examples, _ = request.getfixturevalue(rendering).examples(TALK, row=1, max_length=512)

    weights = np.concatenate([example.weights for example in examples])

    assert weights.sum() == pytest.approx(1)
    assert len(set(weights[weights > 0])) == 1


def test_train_on_chooses_the_messages_that_carry_loss(stand_in: Rendering, tokenizer: Any) -> None:
    (last,), _ = stand_in.examples(TALK, row=1, max_length=512, train_on="last_assistant_message")
    (marked,), _ = stand_in.examples(
        Conversation(TALK.messages, chosen=frozenset({1})), row=1, max_length=512
    )

    assert trained_text(tokenizer, last.tokens, last.trained) == "done<|im_end|>"
    assert trained_text(tokenizer, marked.tokens, marked.trained) == "ho<|im_end|>"


def test_sequences_are_truncated_at_their_end(stand_in: Rendering) -> None:
    (whole,), cut = stand_in.examples(QUESTION, row=1, max_length=512)
    (short,), was_cut = stand_in.examples(QUESTION, row=1, max_length=len(whole.tokens) - 1)

    assert (cut, was_cut) == (False, True)
    assert short.tokens.tolist() == whole.tokens[:-1].tolist()
    assert short.weights.sum() == pytest.approx(1)


def test_a_row_whose_trained_message_is_truncated_is_unusable(stand_in: Rendering) -> None:
    with pytest.raises(Unusable, match="beyond max_sequence_length"):
        stand_in.examples(QUESTION, row=1, max_length=10)


def test_a_row_without_an_assistant_message_is_unusable(stand_in: Rendering) -> None:
    with pytest.raises(Unusable, match="no assistant message"):
        stand_in.examples(Conversation(QUESTION.messages[:1]), row=1, max_length=512)


def tool_talk() -> Conversation:
    call = {"id": "c1", "name": "add", "arguments": {"a": 2}}
    return read_conversation(
        {
            "messages": [
                {"role": "user", "content": "2+2?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "4"},
                {"role": "assistant", "content": "four"},
            ],
            "tools": [{"name": "add", "description": "adds", "parameters": {"type": "object"}}],
        }
    )


@pytest.mark.parametrize("rendering", ["stand_in", "qwen3"])
def test_tool_calls_and_tools_are_rendered(
    rendering: str, request: pytest.FixtureRequest, tokenizer: Any
) -> None:
    examples, _ = request.getfixturevalue(rendering).examples(tool_talk(), row=1, max_length=2000)

    text = tokenizer.decode(examples[-1].tokens)
    trained = "".join(trained_text(tokenizer, e.tokens, e.trained) for e in examples)
    assert '"name": "add"' in text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>' in trained
    assert "adds" not in trained
    assert "four" in trained


def test_a_renderer_without_tool_calls_refuses_them(tiny_model: Path) -> None:
    rendering = load_rendering("Qwen/Qwen3-8B-Base", rehearsal=False, tokenizer=str(tiny_model))

    with pytest.raises(Unusable, match="role_colon has no tool calls"):
        rendering.examples(tool_talk(), row=1, max_length=512)


def test_reasoning_is_rendered(qwen3: Rendering, tokenizer: Any) -> None:
    said = read_conversation(
        {
            "messages": [
                {"role": "user", "content": "2+2?"},
                {"role": "assistant", "content": "4", "reasoning_content": "easy"},
            ]
        }
    )

    (example,), _ = qwen3.examples(said, row=1, max_length=512)

    trained = trained_text(tokenizer, example.tokens, example.trained)
    assert trained == "<think>\neasy\n</think>\n\n4<|im_end|>"


def test_a_tokenizer_without_the_formats_tokens_is_refused(tiny_model: Path) -> None:
    with pytest.raises(JobFailed, match=r"renderer `llama3` of meta-llama/Llama-3\.1-8B-Instruct"):
        load_rendering(
            "meta-llama/Llama-3.1-8B-Instruct", rehearsal=False, tokenizer=str(tiny_model)
        )


def test_a_missing_tokenizer_is_refused() -> None:
    with pytest.raises(JobFailed, match=r"The tokenizer of Qwen/Qwen3-8B cannot be loaded here"):
        load_rendering("Qwen/Qwen3-8B", rehearsal=False, tokenizer="Qwen/Qwen3-8B")


def test_a_model_whose_renderer_package_is_missing_is_refused() -> None:
    with pytest.raises(JobFailed, match="thinkingmachines/Inkling") as refusal:
        load_rendering("thinkingmachines/Inkling", rehearsal=False, tokenizer="none")

    assert "[" not in str(refusal.value)


def test_a_model_without_a_known_renderer_is_refused(tiny_model: Path) -> None:
    with pytest.raises(JobFailed, match="No renderer is known for nobody/Model"):
        load_rendering("nobody/Model", rehearsal=False, tokenizer=str(tiny_model))


@pytest.mark.parametrize("rendering", ["stand_in", "qwen3"])
@pytest.mark.parametrize("system", [None, "Be brief.", "Answer in <b>."])
def test_text_that_a_format_copies_is_rendered_as_text_that_it_reads(
    rendering: str, system: str | None, request: pytest.FixtureRequest
) -> None:
    used: Rendering = request.getfixturevalue(rendering)

    def rendered(sign: str, blanks: str) -> list[tuple[str, str]]:
        messages = [{"role": "system", "content": system}] if system else []
        for number in range(3):
            messages.append({"role": "user", "content": f"{blanks}ask{sign}{number}{blanks}"})
            messages.append({"role": "assistant", "content": f"say{sign}{number}{blanks}"})
        said = read_conversation({"messages": messages})
        examples, _ = used.examples(said, row=1, max_length=512)
        return [
            (used.decode(each.tokens), used.decode(each.tokens[each.trained])) for each in examples
        ]

    for blanks in ("", " ", "\n"):
        # Only text with a `<` is looked at by formats, and so is written one by one.
        read = [
            tuple(text.replace("say<", "say-").replace("ask<", "ask-") for text in each)
            for each in rendered("<", blanks)
        ]
        assert rendered("-", blanks) == read
