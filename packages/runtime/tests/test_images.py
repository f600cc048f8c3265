"""Images of rows become chunks of their own for vision models, and are refused elsewhere."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.backend.tinker_trainer import _datums
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.vision import CookbookVision, vision_of
from PIL import Image
from tinker_cookbook.renderers import get_renderer
from transformers import AutoTokenizer


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


class Processor:
    """Counts the tokens of an image as those of the field do: patches merged two by two."""

    merge_size = 2

    def get_number_of_image_patches(self, height: int, width: int, **_: Any) -> int:
        return max(1, height // 4) * max(1, width // 4) * self.merge_size**2


@pytest.fixture
def seeing(tiny_model: Path) -> Rendering:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    renderer = get_renderer("qwen3_vl_instruct", tokenizer, Processor())
    loaded = load_rendering("Qwen/Qwen3-8B", rehearsal=False, tokenizer=str(tiny_model))
    return Rendering(
        loaded._formats, vision=lambda _: CookbookVision("qwen3_vl_instruct", renderer)
    )


def test_an_image_is_one_chunk_and_counts_its_tokens(seeing: Rendering) -> None:
    said = read_conversation(asked(PARTS["openai"]))

    (example,), cut = seeing.examples(said, row=3, max_length=500)

    (image,) = example.images
    assert (image.length, cut, example.row) == (4, False, 3)
    assert not example.trained[: image.start + image.length].any()
    assert example.weights.sum() == pytest.approx(1)
    (datum,) = _datums([example])
    assert [chunk.type for chunk in datum.model_input.chunks] == [
        "encoded_text",
        "image",
        "encoded_text",
    ]
    assert datum.model_input.length == len(example.tokens) - 1


def test_each_completion_about_an_image_is_a_sequence(seeing: Rendering) -> None:
    row = asked(PARTS["openai"])
    row["messages"] += [{"role": "user", "content": "Sure?"}, {**ANSWER, "content": "Yes."}]

    examples, _ = seeing.examples(read_conversation(row), row=1, max_length=500)

    assert [len(example.images) for example in examples] == [1, 1]
    assert sum(float(example.weights.sum()) for example in examples) == pytest.approx(1)


def test_an_image_is_never_truncated(seeing: Rendering) -> None:
    with pytest.raises(Unusable, match="holds images and is longer than max_sequence_length"):
        seeing.examples(read_conversation(asked(PARTS["openai"])), row=1, max_length=12)


def test_control_tokens_beside_an_image_are_refused(seeing: Rendering) -> None:
    row = asked(PARTS["openai"])
    row["messages"][1] = {"role": "assistant", "content": "Red.<|im_end|>"}

    with pytest.raises(Unusable, match=r"already holds `<\|im_end\|>`"):
        seeing.examples(read_conversation(row), row=1, max_length=500)
