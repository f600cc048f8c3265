"""Conversations with images, as hosted Tinker's vision models are trained on them.

tinker-cookbook's vision renderers write them, corrected as those of text are: an image becomes a
chunk of its own, which counts as many tokens as the model's image processor says. Their places hold
IMAGE_TOKEN in a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinker
from dreadnode.training import get_training_model
from tinker_cookbook import image_processing_utils
from tinker_cookbook.renderers import Message, Renderer, TrainOnWhat, get_renderer

from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.renderers.chat import Chat, chat_of
from dreadnode_runtime.data.renderers.cookbook import arranged, cookbook_message
from dreadnode_runtime.data.renderers.corrected import registered_name
from dreadnode_runtime.data.renderers.tokens import control_tokens
from dreadnode_runtime.errors import plain

IMAGE_TOKEN = 0
"""Stands where an image's tokens are; the image's own chunk is sent in its place."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image within a sequence.

    Attributes:
        start: Where its tokens begin.
        length: How many tokens it counts.
        chunk: What is sent to the engine.
    """

    start: int
    length: int
    chunk: tinker.types.ImageChunk


@dataclass(frozen=True, slots=True)
class Written:
    """A trained message with what precedes it: tokens, where they carry loss, and images."""

    tokens: list[int]
    carries: list[bool]
    images: list[Image]


class NoVision:
    """Refuses images, for a reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def write(self, said: Conversation, trained: Sequence[int]) -> list[Written]:
        """Refuse.

        Raises:
            Unusable: Always.
        """
        raise Unusable(self._reason)


class CookbookVision:
    """Writes with a vision renderer of tinker-cookbook."""

    def __init__(self, name: str, renderer: Renderer) -> None:
        self._name = name
        self._renderer = renderer
        self._control = control_tokens(renderer.tokenizer)

    def write(self, said: Conversation, trained: Sequence[int]) -> list[Written]:
        """Return a sequence for each of the TRAINED messages, which begins as its prompt does.

        Raises:
            Unusable: It cannot be written.
        """
        # The renderer encodes text itself, so a control token in it would become one.
        chat = chat_of(said, self._plain)
        try:
            return [self._one(chat, index) for index in trained]
        except Unusable:
            raise
        except Exception as error:
            raise Unusable(f"{self._name} cannot render it: {plain(error)}") from error

    def _plain(self, text: str) -> str:
        """Return TEXT if it holds no control token."""
        if found := next((name for name in self._control if name in text), None):
            raise Unusable(f"it holds `{found}`, a control token of {self._name}, beside an image")
        return text

    def _arranged(self, chat: Chat) -> list[Message]:
        messages = [cookbook_message(each) for each in chat.messages]
        return arranged(self._renderer, messages, chat.tools)

    def _one(self, chat: Chat, index: int) -> Written:
        before, answered = self._arranged(chat.until(index)), self._arranged(chat.until(index + 1))
        prompt, _ = _flat(self._renderer.build_generation_prompt(before))
        whole, weights = self._renderer.build_supervised_example(
            answered, train_on_what=TrainOnWhat.LAST_ASSISTANT_MESSAGE
        )
        tokens, images = _flat(whole)
        if tokens[: len(prompt)] != prompt:
            raise Unusable(f"{self._name} writes this answer after another prompt than it samples")
        carries = [bool(weight) and at >= len(prompt) for at, weight in enumerate(weights.tolist())]
        return Written(tokens, carries, images)


Vision = NoVision | CookbookVision
"""Writes conversations that hold images, or refuses them."""


def no_vision(_name: str) -> Vision:
    """Return what refuses images, where nothing is known of the model."""
    return NoVision("it holds images, which this format does not write")


def vision_of(model: str, name: str, tokenizer: Any, folder: str, *, rehearsal: bool) -> Vision:
    """Return what writes images for MODEL, or what refuses them and says why.

    Args:
        model: Its catalog id.
        name: Of its renderer.
        tokenizer: The loaded tokenizer.
        folder: Where the tokenizer is from: a folder is this server's own engine's.
        rehearsal: Whether the stand-in is trained in its place.
    """
    known = get_training_model(model)
    if known is not None and not known.vision:
        return NoVision(f"it holds images, and {model} reads text only")
    if rehearsal:
        return NoVision("it holds images, and the stand-in of a rehearsal reads text only")
    if Path(folder).is_dir():
        return NoVision(
            "it holds images, and this server's engine has no vision tower; "
            "train it on hosted Tinker"
        )
    try:
        processor = image_processing_utils.get_image_processor(model)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        return NoVision(
            f"it holds images, and the image processor of {model} cannot be loaded here "
            f"({plain(error)})"
        )
    renderer = get_renderer(registered_name(name), tokenizer, processor, model_name=model)
    return CookbookVision(name, renderer)


def _flat(written: tinker.ModelInput) -> tuple[list[int], list[Image]]:
    """Return the tokens of WRITTEN, IMAGE_TOKEN for each of an image, and its images."""
    tokens: list[int] = []
    images: list[Image] = []
    for chunk in written.chunks:
        if isinstance(chunk, tinker.types.EncodedTextChunk):
            tokens += chunk.tokens
        elif isinstance(chunk, tinker.types.ImageChunk):
            images.append(Image(len(tokens), chunk.length, chunk))
            tokens += [IMAGE_TOKEN] * chunk.length
        else:
            raise Unusable(f"a chunk of the type {type(chunk).__name__}, which is unknown")
    return tokens, images


def model_input(tokens: Sequence[int], images: Sequence[Image]) -> tinker.ModelInput:
    """Return TOKENS with IMAGES in their places, as the engine takes them."""
    chunks: list[Any] = []
    at = 0
    for image in images:
        if image.start > at:
            chunks.append(tinker.types.EncodedTextChunk(tokens=list(tokens[at : image.start])))
        chunks.append(image.chunk)
        at = image.start + image.length
    if at < len(tokens):
        chunks.append(tinker.types.EncodedTextChunk(tokens=list(tokens[at:])))
    return tinker.ModelInput(chunks=chunks)
