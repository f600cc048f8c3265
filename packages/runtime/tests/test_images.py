"""Images of rows become chunks of their own for vision models, and are refused elsewhere."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.backend.tinker_trainer import _datums
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.vision import Vision, vision_of
from PIL import Image
from tinker_cookbook import image_processing_utils
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


def png(width: int = 8, height: int = 8) -> str:
    """Return a small image as base64."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


URL = f"data:image/png;base64,{png()}"
ANSWER = {"role": "assistant", "content": "Red."}


def asked(part: dict[str, Any]) -> dict[str, Any]:
    """Return a row that asks about the image of PART."""
    content = [part, {"type": "text", "text": "Which colour?"}]
    return {"messages": [{"role": "user", "content": content}, ANSWER]}


PARTS = {
    "openai": {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
    "openai responses": {"type": "input_image", "image_url": URL},
    "anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": png()},
    },
    "gemini": {"inlineData": {"mimeType": "image/png", "data": png()}},
    "datasets": {"type": "image", "image": {"bytes": png(), "path": None}},
    "plain": {"type": "image", "image": URL},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_an_image_is_read_from_every_form(part: dict[str, Any]) -> None:
    said = read_conversation(asked(part))

    assert said.messages[0]["content"] == [
        {"type": "image", "image": URL},
        {"type": "text", "text": "Which colour?"},
    ]
    assert said.unread == ()


def test_images_beside_a_conversation_are_placed_where_the_text_says() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "<image>Which colour?<image>"},
            {"from": "gpt", "value": "Red."},
        ],
        "images": [URL, {"path": URL}],
    }

    content = read_conversation(row).messages[0]["content"]

    assert [part["type"] for part in content if not isinstance(part, str)] == [
        "image",
        "text",
        "image",
    ]
    with pytest.raises(Unusable, match="more `<image>` than `images`"):
        read_conversation({**row, "images": [URL]})
    with pytest.raises(Unusable, match="`images` has 3 entries"):
        read_conversation({**row, "images": [URL] * 3})


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://example.org/a.png", "the address `https://example.org/a.png`"),
        ("pictures/a.png", "an image is `pictures/a.png`; write it as a `data:` URL"),
        ("data:image/png;base64,aGVsbG8gd29ybGQ=", "does not hold a PNG"),
        ("data:image/png;base64,!!!", "does not hold a PNG"),
        ("", "an image is `null`"),
    ],
)
def test_a_file_that_is_not_an_image_is_refused_with_its_type(image: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_conversation(asked({"type": "image_url", "image_url": {"url": image}}))


@pytest.mark.parametrize(
    ("model", "rehearsal", "reason"),
    [
        ("Qwen/Qwen3-8B", False, "Qwen/Qwen3-8B reads text only"),
        ("Qwen/Qwen3.5-4B", True, "the stand-in of a rehearsal reads text only"),
        ("Qwen/Qwen3.5-4B", False, "this server's engine has no vision tower"),
    ],
)
def test_models_that_cannot_train_on_images_refuse_them_in_one_sentence(
    tiny_model: Path, model: str, rehearsal: bool, reason: str
) -> None:
    said = read_conversation(asked(PARTS["plain"]))
    vision = vision_of(model, "qwen3_5", None, str(tiny_model), rehearsal=rehearsal)

    with pytest.raises(Unusable, match=reason):
        vision.write(said, [1])


@pytest.fixture
def seeing(rendering_of: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Rendering]:
    """Make the rendering of a vision model, with Qwen's own image processor."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 16_777_216}
    )
    monkeypatch.setattr(image_processing_utils, "get_image_processor", lambda _: processor)

    def make(model: str) -> Rendering:
        made = rendering_of(model)

        def vision(name: str) -> Vision:
            return vision_of(model, name, made.tokenizer, "of a hub", rehearsal=False)

        return Rendering(made._formats, vision=vision)

    return make


VISION = [
    *("Qwen/Qwen3.5-4B", "Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.8-27B", "moonshotai/Kimi-K2.6"),
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16",
]


@pytest.mark.parametrize("model", VISION)
def test_an_image_is_a_chunk_and_counts_the_tokens_of_the_models_processor(
    model: str, seeing: Callable[[str], Rendering]
) -> None:
    row = asked({"type": "image", "image": f"data:image/png;base64,{png(320, 256)}"})
    said = read_conversation(row)
    rendering = seeing(model).fitted([said], "all_assistant_messages")

    (example,), cut = rendering.examples(said, row=3, max_length=500)

    (image,) = example.images
    # 320 x 256 pixels are 20 x 16 patches, of which two by two are a token.
    assert (image.length, cut, example.row) == (80, False, 3)
    assert not example.trained[: image.start + image.length].any()
    assert rendering.decode(example.tokens[example.trained].tolist()).endswith("Red.<|im_end|>")
    assert example.weights.sum() == pytest.approx(1)
    (datum,) = _datums([example])
    assert [chunk.type for chunk in datum.model_input.chunks] == [
        "encoded_text",
        "image",
        "encoded_text",
    ]
    assert datum.model_input.length == len(example.tokens) - 1


@pytest.mark.parametrize("model", VISION)
def test_a_call_about_an_image_is_written_as_without_one(
    model: str, seeing: Callable[[str], Rendering]
) -> None:
    call = {"id": "c1", "function": {"name": "look", "arguments": {"at": "Köln"}}}
    tools = [{"name": "look", "parameters": {"type": "object"}}]

    def learnt(row: dict[str, Any]) -> list[str]:
        row["messages"][1:1] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "red"},
        ]
        said = read_conversation({**row, "tools": tools})
        rendering = seeing(model).fitted([said], "all_assistant_messages")
        examples, _ = rendering.examples(said, row=1, max_length=2000)
        trained = [e.tokens[e.trained].tolist() for e in examples]
        return [rendering.decode(tokens) for tokens in trained]

    with_image = learnt(asked(PARTS["plain"]))
    without = learnt({"messages": [{"role": "user", "content": "Which colour?"}, ANSWER]})

    assert "".join(with_image) == "".join(without)
    assert "Köln" in with_image[0]


def test_each_answer_about_an_image_is_a_sequence(seeing: Callable[[str], Rendering]) -> None:
    row = asked(PARTS["openai"])
    row["messages"] += [{"role": "user", "content": "Sure?"}, {**ANSWER, "content": "Yes."}]

    examples, _ = seeing(VISION[0]).examples(read_conversation(row), row=1, max_length=500)

    assert [len(example.images) for example in examples] == [1, 1]
    assert sum(float(example.weights.sum()) for example in examples) == pytest.approx(1)


def test_an_image_is_never_cut(seeing: Callable[[str], Rendering]) -> None:
    with pytest.raises(Unusable, match="holds images and is longer than max_sequence_length"):
        seeing(VISION[0]).examples(read_conversation(asked(PARTS["openai"])), row=1, max_length=12)


@pytest.mark.parametrize("token", ["<|im_end|>", "<think>", "<|image_pad|>"])
def test_control_tokens_beside_an_image_are_refused(
    token: str, seeing: Callable[[str], Rendering]
) -> None:
    row = asked(PARTS["openai"])
    row["messages"][1] = {"role": "assistant", "content": f"It is {token} red."}

    with pytest.raises(Unusable, match=re.escape(f"it holds `{token}`, a control token")):
        seeing(VISION[0]).examples(read_conversation(row), row=1, max_length=500)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "Qwen/Qwen3.5-4B"])
def test_a_prompt_with_an_image_is_not_sampled_without_it(
    model: str, seeing: Callable[[str], Rendering]
) -> None:
    said = read_conversation({"messages": asked(PARTS["plain"])["messages"][:1]})

    with pytest.raises(Unusable, match="only supervised training takes them"):
        seeing(model).prompt(said)
