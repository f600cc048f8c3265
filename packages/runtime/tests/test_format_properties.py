"""What holds for every conversation in every active model's format, tried on generated ones.

For each trained message: the tokens before it are the prompt that sampling continues, no text
becomes a control token, what carries loss is what the row marks, whole, and it is read back as one
message.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dreadnode.training.models import TINKER_MODELS
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Message, Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.renderers.formats import names_of
from dreadnode_runtime.data.rendering import Rendering
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MakeRendering = Callable[..., Rendering]
SAME_FORMAT = {
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16": (
        "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16"
    ),
    "zai-org/GLM-5.3-Flash:peft:262144": "zai-org/GLM-5.3:peft:262144",
    "deepseek-ai/DeepSeek-V4.1-Flash-1017:peft:262144": (
        "deepseek-ai/DeepSeek-V4.1-Flash:peft:262144"
    ),
    "openai/gpt-oss-120b": "openai/gpt-oss-20b",
    "Qwen/Qwen3.5-397B-A17B": "Qwen/Qwen3.5-9B",
    "Qwen/Qwen3.5-4B": "Qwen/Qwen3.5-9B",
    "Qwen/Qwen3.5-35B-A3B-Base": "Qwen/Qwen3.5-9B-Base",
}
"""Models whose renderers and tokenizer are those of another one, which is tried."""
MODELS = [
    model.tinker_id
    for model in TINKER_MODELS
    if model.status == "active"
    and not model.tinker_id.startswith("thinkingmachines/")
    and model.tinker_id not in SAME_FORMAT
]
CONTROL = [
    *("<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_response>"),
    *("<|end|>", "<|call|>", "<｜User｜>", "<|user|>", "<|tool_call_begin|>", "[gMASK]"),
]
WORDS = st.sampled_from(["tide", "pier", "Köln", "6:10", "a  b", "\n", "{}", "é", "潮", "x\n\ny"])
TEXT = st.lists(WORDS, min_size=1, max_size=4).map(" ".join).filter(str.strip)
TRICKY = st.tuples(TEXT, st.sampled_from(CONTROL), TEXT).map(" ".join)
SAID = st.one_of(TEXT, TRICKY)
ARGUMENTS = st.fixed_dictionaries(
    {"day": st.integers(0, 9)}, optional={"pier": SAID, "open": st.booleans(), "at": st.none()}
)
TOOLS = [{"type": "function", "function": {"name": "tide", "description": "Tides"}}]


@st.composite
def turn(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """A question, perhaps a call with its result, and an answer; some are marked."""
    reasons, marked = draw(st.booleans()), draw(st.booleans())
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(SAID)}]

    def assistant(content: str, **more: Any) -> dict[str, Any]:
        thought = {"reasoning_content": draw(TEXT)} if reasons else {}
        mark = {"weight": draw(st.integers(0, 1))} if marked else {}
        return {"role": "assistant", "content": content, **thought, **mark, **more}

    if draw(st.booleans()):
        body = {"name": "tide", "arguments": json.dumps(draw(ARGUMENTS))}
        calls = [{"id": f"call_{number}", "type": "function", "function": body}]
        messages.append(assistant("", tool_calls=calls))
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": draw(SAID)})
    messages.append(assistant(draw(TEXT)))
    return messages


@st.composite
def chats(draw: st.DrawFn) -> Conversation:
    """A conversation of one to three turns, with tools where it calls one."""
    turns = [message for n in range(draw(st.integers(1, 3))) for message in draw(turn(n))]
    system = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    row: dict[str, Any] = {"messages": [*system, *turns]}
    if any("tool_calls" in message for message in turns):
        row["tools"] = TOOLS
    return read_conversation(row)


def test_a_model_that_is_left_out_has_the_format_of_one_that_is_tried(tokenizers: Any) -> None:
    for left_out, tried in SAME_FORMAT.items():
        assert tried in MODELS
        assert names_of(left_out) == names_of(tried)
        assert tokenizers.of_model(left_out) == tokenizers.of_model(tried)


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("model", MODELS)
def test_every_trained_message_follows_the_prompt_used_for_sampling(
    model: str, template: str | None, rendering_of: MakeRendering
) -> None:
    default = rendering_of(model, template)

    @given(said=chats())
    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def holds(said: Conversation) -> None:
        rendering = default.fitted([said], "all_assistant_messages")
        try:
            examples, cut = rendering.examples(said, row=1, max_length=100_000)
        except Unusable:
            # Refused in a sentence: nothing to train on, or reasoning where there is none.
            return
        chosen = trained_messages(said, "all_assistant_messages")
        prompts = _prompts(rendering, said, chosen)
        spans = [span for example in examples for span in _trained_spans(example, prompts)]

        assert not cut
        assert len(spans) == len(prompts)
        assert sum(example.weights.sum() for example in examples) == pytest.approx(1, abs=1e-4)
        for index, tokens in zip(chosen, spans, strict=True):
            _is_one_message(rendering, tokens)
            _holds_all(rendering.decode(tokens), said.messages[index])

    holds()


def _prompts(rendering: Rendering, said: Conversation, chosen: list[int]) -> list[list[int]]:
    """Return the prompt before each CHOSEN message, as the chat and the rollouts ask for it."""
    return [rendering.prompt(Conversation(said.messages[:index], said.tools)) for index in chosen]


def _holds_all(text: str, message: Message) -> None:
    """Assert that TEXT holds what MESSAGE says, thinks and calls."""
    content = message["content"]
    parts = [content] if isinstance(content, str) else [_text_of(part) for part in content]
    for part in (*parts, *(call["name"] for call in message.get("tool_calls", ()))):
        assert part.strip() in text


def _text_of(part: Any) -> str:
    return str(part["thinking"] if part["type"] == "thinking" else part["text"])


def _trained_spans(example: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Return each run of tokens that carries loss, having found the prompt before it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.trained, [0]])))
    spans = []
    for start, end in edges.reshape(-1, 2):
        before = example.tokens[:start].tolist()
        assert before in prompts
        spans.append(example.tokens[start:end].tolist())
    return spans


def _is_one_message(rendering: Rendering, tokens: list[int]) -> None:
    """Assert that TOKENS end with what ends a message, once, and are read back as a message."""
    stop = rendering.stop
    if isinstance(stop[0], int):
        assert tokens[-1] in stop
        assert sum(token in stop for token in tokens) == 1
    message = rendering.answer(tokens)
    assert "unparsed_tool_calls" not in message


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CONTROL)
def test_text_is_never_encoded_as_a_control_token(
    model: str, name: str, rendering_of: MakeRendering
) -> None:
    rendering = rendering_of(model)

    def control(text: str) -> list[int]:
        tool = {"name": "tide", "description": text}
        system = {"role": "system", "content": f"Be {text} brief"}
        asked = {"role": "user", "content": f"What is {text} here?"}
        tools = [] if model.endswith("-Base") else [tool]
        said = Conversation([system, asked], tools)  # type: ignore[list-item]
        ids = set(rendering._encoder._ids.values())
        return [token for token in rendering.prompt(said) if token in ids]

    assert control(name) == control("nothing")
