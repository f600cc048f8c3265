"""Rows that renderers wrote wrongly, each with siblings, in the formats that showed it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering

MakeRendering = Callable[..., Rendering]
NEMOTRON = [
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16",
]
QWEN3, QWEN36, QWEN38 = "Qwen/Qwen3-8B", "Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.8-27B"
DEEPSEEK, KIMI, GPT_OSS = (
    "deepseek-ai/DeepSeek-V3.1",
    "moonshotai/Kimi-K2.6",
    "openai/gpt-oss-20b",
)
GLM = "zai-org/GLM-5.3:peft:262144"
TIDE = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, reasoning: str | None = None, *calls: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = list(calls)
    return message


def call(call_id: str = "c1", name: str = "tide", **arguments: Any) -> dict[str, Any]:
    body = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": body}


def result(text: str, call_id: str | None = "c1") -> dict[str, Any]:
    message = {"role": "tool", "content": text}
    return message if call_id is None else {**message, "tool_call_id": call_id}


def written(rendering: Rendering, *messages: Any, tools: Any = (TIDE,)) -> tuple[str, list[str]]:
    """Return the text of the last sequence, and what carries loss in each."""
    said = read_conversation({"messages": list(messages), "tools": list(tools)})
    examples, _ = rendering.examples(said, row=1, max_length=10_000)
    texts = [rendering.decode(example.tokens[example.trained].tolist()) for example in examples]
    return rendering.decode(examples[-1].tokens.tolist()), texts


@pytest.mark.parametrize("model", NEMOTRON)
def test_completions_without_reasoning_are_trained_after_the_prompt_used_for_sampling(
    model: str, rendering_of: MakeRendering
) -> None:
    rendering = rendering_of(model)
    said = read_conversation({"prompt": "2+2?", "response": "4."})

    used = rendering.fitted([said], "all_assistant_messages")
    ((example,), _) = used.examples(said, row=1, max_length=512)

    prompt = used.prompt(read_conversation({"messages": [user("2+2?")]}))
    assert used.name.endswith("_disable_thinking")
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert not example.trained[: len(prompt)].any()
    assert "no" not in used.notes or "so" in used.notes[0]
    assert used.notes[0].endswith(f"so {used.name} writes this job and its chat")


@pytest.mark.parametrize("model", NEMOTRON)
def test_completions_with_reasoning_keep_the_thinking_variant(
    model: str, rendering_of: MakeRendering
) -> None:
    rendering = rendering_of(model)
    said = read_conversation({"messages": [user("2+2?"), assistant("4.", "Add.")]})

    assert rendering.fitted([said], "all_assistant_messages") is rendering


def test_reasoning_is_named_and_dropped_by_a_renderer_without_reasoning(
    rendering_of: MakeRendering,
) -> None:
    with_it = read_conversation({"messages": [user("2+2?"), assistant("4.", "Add.")]})
    without = read_conversation({"prompt": "2+2?", "response": "4."})

    used = rendering_of(NEMOTRON[0]).fitted([with_it, without], "all_assistant_messages")

    used.examples(without, row=1, max_length=512)
    with pytest.raises(Unusable, match="has no place for the reasoning"):
        used.examples(with_it, row=2, max_length=512)


def test_a_hybrid_model_trains_reasoning_where_its_rows_contain_it(
    rendering_of: MakeRendering,
) -> None:
    reasons = read_conversation({"messages": [user("2+2?"), assistant("4.", "Add.")]})
    answers = read_conversation({"prompt": "2+2?", "response": "4."})
    rendering = rendering_of(DEEPSEEK)

    used = rendering.fitted([answers, reasons], "all_assistant_messages")

    assert rendering.fitted([answers], "all_assistant_messages") is rendering
    assert used.name == "deepseekv3_thinking"
    for said in (reasons, answers):
        ((example,), _) = used.examples(said, row=1, max_length=512)
        prompt = used.prompt(read_conversation({"messages": [user("2+2?")]}))
        assert example.tokens[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3.5-9B-Base"])
def test_a_format_without_reasoning_reports_dropped_reasoning(
    model: str, rendering_of: MakeRendering
) -> None:
    said = read_conversation({"messages": [user("2+2?"), assistant("4.", "Add.")]})

    with pytest.raises(Unusable, match="has no place for the reasoning of an answer"):
        rendering_of(model).examples(said, row=1, max_length=512)


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("model", [QWEN3, QWEN36, QWEN38, NEMOTRON[0]])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_consecutive_tool_results_share_one_user_turn(
    model: str, template: str | None, count: int, rendering_of: MakeRendering
) -> None:
    calls = [call(f"c{n}", day=n) for n in range(count)]
    results = [result(f"at {n}", f"c{n}") for n in range(count)]
    rendering = rendering_of(model, template)
    messages = [user("Tides?"), assistant("", "Look.", *calls), *results]
    said = read_conversation({"messages": messages, "tools": [TIDE]})

    prompt = rendering.decode(rendering.prompt(said))

    assert prompt.count("<|im_start|>user") == 2
    assert prompt.count("\n<tool_response>\n") == count
    for n in range(count):
        assert f"at {n}" in prompt


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("model", [QWEN3, QWEN36, GPT_OSS, KIMI, DEEPSEEK])
@pytest.mark.parametrize("word", ["Köln", "東京", "Αθήνα", "🌊"])
def test_non_ascii_letters_are_written_unescaped(
    model: str, template: str | None, word: str, rendering_of: MakeRendering
) -> None:
    template = None if model in (KIMI, DEEPSEEK) else template
    tool = {"name": "wetter", "description": f"Wetter in {word}", "parameters": {}}
    asked, answered = user("Wetter?"), assistant("", None, call(name="wetter", ort=word))

    text, trained = written(rendering_of(model, template), asked, answered, tools=[tool])

    assert "\\u" not in text
    assert word in trained[0]


@pytest.mark.parametrize("text", ["", "Let me look."])
@pytest.mark.parametrize("days", [[0], [0, 1]])
def test_a_tool_call_ends_with_a_token_that_carries_loss(
    text: str, days: list[int], rendering_of: MakeRendering
) -> None:
    calls = [call(f"c{day}", day=day) for day in days]

    _, (trained,) = written(rendering_of(DEEPSEEK), user("Tide?"), assistant(text, None, *calls))

    assert trained.endswith("<｜tool▁calls▁end｜><｜end▁of▁sentence｜>")


@pytest.mark.parametrize("model", [GPT_OSS, KIMI])
@pytest.mark.parametrize("result_id", ["c1", None, "another"])
def test_a_tool_result_names_its_function(
    model: str, result_id: str | None, rendering_of: MakeRendering
) -> None:
    messages = [user("Tide?"), assistant("", None, call(day=0)), result("6:10", result_id)]

    text, _ = written(rendering_of(model, None), *messages, assistant("At 6:10."))

    assert "unknown" not in text
    assert {GPT_OSS: "functions.tide to=assistant", KIMI: "tide<|im_middle|>"}[model] in text


@pytest.mark.parametrize("call_id", ["call_8f2a", "c1", "functions.other:7"])
def test_kimis_call_ids_contain_the_functions_name(
    call_id: str, rendering_of: MakeRendering
) -> None:
    first = [user("Tide?"), assistant("", None, call(call_id, day=0)), result("6:10", call_id)]
    second = assistant("", None, call("again", day=1))

    text, trained = written(rendering_of(KIMI), *first, second)

    assert call_id not in text
    assert "<|tool_call_begin|>functions.tide:0<|tool_call_argument_begin|>" in text
    assert "## Return of functions.tide:0" in text
    assert "functions.tide:1" in trained[-1]


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("reasoning", ["I need the table.", "One.\n\nTwo.", "Köln?"])
def test_two_line_breaks_separate_reasoning_and_a_call(
    template: str | None, reasoning: str, rendering_of: MakeRendering
) -> None:
    asked, answered = user("Tide?"), assistant("", reasoning, call(day=0))

    _, (trained,) = written(rendering_of(QWEN3, template), asked, answered)

    assert trained.startswith(f"<think>\n{reasoning}\n</think>\n\n<tool_call>\n")


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("model", ["Qwen/Qwen3.5-4B", QWEN36, QWEN38])
@pytest.mark.parametrize("closed", [False, True])
def test_tools_are_declared_like_servers_declare_them(
    model: str, template: str | None, *, closed: bool, rendering_of: MakeRendering
) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": closed}
    tool = {"type": "function", "function": {"name": "tide", "strict": True, "parameters": schema}}

    text, _ = written(rendering_of(model, template), user("?"), assistant("Hm."), tools=[tool])

    assert f"\n{json.dumps(tool)}\n" in text


@pytest.mark.parametrize("model", ["Qwen/Qwen3.5-4B", QWEN36, QWEN38])
@pytest.mark.parametrize("template", ["its own", None])
def test_a_row_refused_by_the_template_is_refused(
    model: str, template: str | None, rendering_of: MakeRendering
) -> None:
    late = [user("Hi"), assistant("Hello."), {"role": "system", "content": "Be formal."}]

    with pytest.raises(Unusable, match=r"cannot render it: .*ystem message must"):
        written(rendering_of(model, template), *late, user("Hi"), assistant("Good day."))


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("answers", [2, 3])
def test_earlier_reasoning_of_gpt_oss_is_dropped(
    template: str | None, answers: int, rendering_of: MakeRendering
) -> None:
    turns = [
        message
        for n in range(answers)
        for message in (user(f"{n}+{n}?"), assistant(f"It is {2 * n}.", f"Thought {n}."))
    ]

    text, trained = written(rendering_of(GPT_OSS, template), *turns)

    assert f"Thought {answers - 1}." in text
    assert "Thought 0." not in text
    assert [f"Thought {n}." in each for n, each in enumerate(trained)] == [True] * answers


@pytest.mark.parametrize("template", ["its own", None])
def test_parallel_tool_calls_become_consecutive_calls(
    template: str | None, rendering_of: MakeRendering
) -> None:
    calls = [call("c1", day=0), call("c2", day=1)]
    messages = [user("Tides?"), assistant("", "Look.", *calls)]

    text, trained = written(
        rendering_of(GPT_OSS, template),
        *messages,
        result("7:02", "c2"),
        result("6:10", "c1"),
        assistant("6:10 and 7:02."),
    )

    assert text.index('{"day": 0}') < text.index("6:10") < text.index('{"day": 1}')
    assert "".join(trained).count("<|call|>") == 2


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize(
    "model", [GPT_OSS, NEMOTRON[0], KIMI, QWEN3, "zai-org/GLM-5.3:peft:262144"]
)
@pytest.mark.parametrize("schema", [True, {"type": "array", "items": True}, {}])
def test_true_is_accepted_as_a_schema(
    model: str, template: str | None, schema: Any, rendering_of: MakeRendering
) -> None:
    template = None if model in (KIMI, GLM) else template
    parameters = {"type": "object", "properties": {"day": schema}}
    tool = {"name": "tide", "description": "Tides", "parameters": parameters}
    said = read_conversation({"messages": [user("Tide?")], "tools": [tool]})
    rendering = rendering_of(model, template)

    assert "day" in rendering.decode(rendering.prompt(said))


TAGS = [
    "It is </think> here.",
    "Use <think> and </think>.",
    "a</think>b<think>c",
    "<tool_call>",
    "</tool_response> is a tag",
]


@pytest.mark.parametrize("template", ["its own", None])
@pytest.mark.parametrize("model", [QWEN3, QWEN36, DEEPSEEK, KIMI, NEMOTRON[0], GPT_OSS])
@pytest.mark.parametrize("text", TAGS)
def test_a_mentioned_tag_is_trained_as_written(
    model: str, template: str | None, text: str, rendering_of: MakeRendering
) -> None:
    template = None if model in (KIMI, DEEPSEEK) else template
    said = read_conversation({"messages": [user("Which tag?"), assistant(text)]})
    rendering = rendering_of(model, template).fitted([said], "all_assistant_messages")

    ((example,), _) = rendering.examples(said, row=1, max_length=512)

    assert text in rendering.decode(example.tokens[example.trained].tolist())


@pytest.mark.parametrize(
    ("model", "token"),
    [
        (QWEN3, "<|im_end|>"),
        (QWEN3, "<|im_start|>"),
        (GPT_OSS, "<|return|>"),
        (DEEPSEEK, "<｜end▁of▁sentence｜>"),
        (KIMI, "<|im_end|>"),
        ("meta-llama/Llama-3.1-8B-Instruct", "<|eot_id|>"),
    ],
)
def test_an_already_rendered_row_is_named_and_left_out(
    model: str, token: str, rendering_of: MakeRendering
) -> None:
    said = read_conversation({"messages": [user("Hi"), assistant(f"Hello.{token}")]})

    with pytest.raises(Unusable) as refusal:
        rendering_of(model).examples(said, row=1, max_length=512)

    assert str(refusal.value).startswith(f"it already holds `{token}`")
