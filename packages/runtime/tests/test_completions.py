"""What of a sampled completion a reward sees: the answer, without reasoning and what ended it."""

from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.completions import read_completion
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.rendering import Rendering
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module", params=[True, False], ids=["stand-in", "qwen3"])
def rendering(request: pytest.FixtureRequest, tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=request.param, tokenizer=str(tiny_model))


@pytest.mark.parametrize(
    ("sampled", "options", "answer"),
    [
        ("yes<|im_end|>", {}, "yes"),
        ("yes<|endoftext|>", {}, "yes"),
        ("yes<|im_end|><|endoftext|>", {}, "yes"),
        ("yes", {"truncated": True}, "yes"),
        ("yes###", {"stop": ["###"]}, "yes"),
        ("yes### and more", {"stop": ["###"]}, "yes"),
        ("yes<|im_end|>", {"stop": ["###"]}, "yes"),
        ("a # b<|im_end|>", {"stop": ["###"]}, "a # b"),
        ("yes\nUser:", {"stop": ["User:", "\n"]}, "yes"),
        ("yes##", {"stop": ["###"], "truncated": True}, "yes##"),
        ("<think>7, or 8", {"truncated": True}, None),
        ("<think>7, or 8", {}, None),
        ("<think>7, or 8<|im_end|>", {}, None),
        ("<think>7</think><think>8", {"truncated": True}, None),
        ("<think>8</think>So", {"truncated": True}, "So"),
        ("<think>8</think>So<|im_end|>", {}, "So"),
        ("<think>8</think>\n\nSo<|endoftext|>", {}, "So"),
        ("<think>8</think>", {"truncated": True}, None),
        ("<think>8</think>", {}, ""),
        ("<think>a ### b</think>So###", {"stop": ["###"]}, None),
        ("a <think> tag in text<|im_end|>", {}, "a <think> tag in text"),
        ("", {}, ""),
        ("<|im_end|>", {}, ""),
    ],
)
def test_a_reward_gets_the_completion_without_its_reasoning(
    rendering: Rendering, tokenizer: Any, sampled: str, options: dict[str, Any], answer: str | None
) -> None:
    prompt = rendering.prompt(Conversation([{"role": "user", "content": "?"}]))
    tokens = tokenizer.encode(sampled, add_special_tokens=False)

    found = read_completion(rendering, prompt, tokens, **options).answer

    assert (found if found is None else found.strip()) == answer


def test_reasoning_opened_by_the_prompt_is_not_part_of_the_completion(
    rendering: Rendering, tokenizer: Any
) -> None:
    prompt = tokenizer.encode("<|im_start|>assistant\n<think>\n", add_special_tokens=False)

    def read(text: str, **options: Any) -> str | None:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        return read_completion(rendering, prompt, tokens, **options).answer

    assert read("7, or 8</think>So<|im_end|>") == "So"
    assert read("7, or 8", truncated=True) is None
