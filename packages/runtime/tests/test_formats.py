"""Every active model's format: it writes what its chat template writes, and reads back its own."""

from collections.abc import Callable
from typing import Any

import pytest
from dreadnode.training.models import TINKER_MODELS
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.renderers import formats
from dreadnode_runtime.data.renderers.chat import Chat
from dreadnode_runtime.data.renderers.differences import NOTHING_TO_COMPARE, differences
from dreadnode_runtime.data.renderers.probes import Probe, shapes
from dreadnode_runtime.data.rendering import Rendering

INKLING = "thinkingmachines/Inkling"
ACTIVE = [model.tinker_id for model in TINKER_MODELS if model.status == "active"]
RENDERED = [model for model in ACTIVE if not model.startswith(INKLING)]
BASES = [model for model in RENDERED if model.endswith("-Base")]
WITHOUT_TEMPLATE = ("deepseek-ai/", "moonshotai/", "zai-org/")
COMPARED = [m for m in RENDERED if m not in BASES and not m.startswith(WITHOUT_TEMPLATE)]

MakeRendering = Callable[..., Rendering]


def own_formats(model: str, tokenizers: Any, real_tokenizer: Callable[..., Any]) -> Any:
    """Return the formats of MODEL as our renderers write them, and as its template does."""
    tokenizer = real_tokenizer(*tokenizers.of_model(model))
    names = formats.names_of(model)
    encoder = formats.Encoder(tokenizer)
    written = [formats._rendered(name, tokenizer, model, encoder) for name in names]
    templated = {made.name: made for made in formats._templated(names, tokenizer, written)}
    return [(made, templated[made.name]) for made in written]


@pytest.mark.parametrize("model", COMPARED)
def test_the_tokenizers_own_template_is_used_where_it_exists(
    model: str, rendering_of: MakeRendering
) -> None:
    rendering = rendering_of(model)

    assert rendering.source == formats.TEMPLATE
    assert rendering.notes == []


@pytest.mark.parametrize("model", COMPARED)
def test_our_renderer_writes_every_shape_like_the_template(
    model: str, tokenizers: Any, real_tokenizer: Callable[..., Any]
) -> None:
    for written, template in own_formats(model, tokenizers, real_tokenizer):
        assert differences(written, template) == ()


@pytest.mark.parametrize("model", COMPARED)
@pytest.mark.parametrize("shape", [s.title for s in shapes() if s.prompt])
def test_a_prompt_equals_a_servers_prompt_token_by_token(
    model: str,
    shape: str,
    rendering_of: MakeRendering,
    tokenizers: Any,
    real_tokenizer: Callable[..., Any],
) -> None:
    chat = next(each.chat for each in shapes() if each.title == shape)
    said = read_conversation({"messages": chat.messages, "tools": chat.tools})
    tokenizer = real_tokenizer(*tokenizers.of_model(model))

    prompt = rendering_of(model).prompt(said)

    sent = tokenizer.apply_chat_template(
        chat.messages, tools=chat.tools or None, add_generation_prompt=True, return_dict=False
    )
    assert prompt == list(sent)


@pytest.mark.parametrize("model", RENDERED)
def test_every_active_model_can_be_trained_on_conversations(
    model: str, rendering_of: MakeRendering
) -> None:
    trains: set[Probe] = set().union(*(each.trains for each in rendering_of(model)._formats))

    assert Probe.TEXT in trains
    if model not in BASES:
        assert trains == set(Probe)


@pytest.mark.parametrize("model", [m for m in RENDERED if m.startswith(WITHOUT_TEMPLATE)])
def test_a_format_without_a_reference_template_is_reported(
    model: str, rendering_of: MakeRendering
) -> None:
    (note,) = rendering_of(model).notes

    assert note.endswith(NOTHING_TO_COMPARE)


def test_a_template_of_another_format_is_ignored_and_its_differences_are_named(
    rendering_of: MakeRendering, tokenizers: Any, real_tokenizer: Callable[..., Any]
) -> None:
    older = real_tokenizer("deepseek_v3", "deepseekv3", ("<think>", "</think>"))
    model = "deepseek-ai/DeepSeek-V3.1"

    rendering = Rendering(formats.formats_of(formats.names_of(model), older, model))

    assert rendering.source == formats.OURS
    assert any("where the chat template writes" in note for note in rendering.notes)


@pytest.mark.parametrize("model", BASES)
def test_a_base_model_renders_turns_but_no_tools(model: str, rendering_of: MakeRendering) -> None:
    said = read_conversation(
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
            "tools": [{"name": "tide"}],
        }
    )

    with pytest.raises(Unusable, match="role_colon has no tool calls"):
        rendering_of(model).examples(said, row=1, max_length=512)


@pytest.mark.parametrize("model", [m for m in ACTIVE if m.startswith(INKLING)])
def test_a_model_with_an_unpublished_renderer_package_is_refused_with_the_reason(
    model: str,
) -> None:
    with pytest.raises(Exception, match=r"tml_renderers"):
        load_rendering(model, rehearsal=False, tokenizer="not-a-folder")


@pytest.mark.parametrize("model", RENDERED)
@pytest.mark.parametrize("template", ["its own", None])
def test_a_conversation_rendered_from_a_cached_skeleton_equals_a_full_rendering(
    model: str, template: str | None, rendering_of: MakeRendering
) -> None:
    made = rendering_of(model, template)._formats[0]
    writer: Any = made.writer
    for shape in shapes():
        if shape.chat.tools and Probe.CALL not in made.trains and model in BASES:
            continue
        for said in ("Low", "Köln {}", 'two\n\n"lines"', "a\\b %s", " blank ", "</think>", "x < y"):
            messages = [
                {**message, "content": said if message["content"] else ""}
                for message in shape.chat.messages
            ]
            chat = Chat(messages, shape.chat.tools)
            try:
                whole = writer._writer.write(chat, prompt=shape.prompt)
            except Exception:
                continue

            assert writer.write(chat, prompt=shape.prompt) == whole
