"""Loads the rendering of a model: its formats, its tokenizer and how it takes images."""

from functools import lru_cache

from pydantic import BaseModel, ConfigDict
from tinker_cookbook.exceptions import RendererError, TinkerCookbookError

from dreadnode_runtime.data.chat_template import STAND_IN_RENDERER, StandInReader
from dreadnode_runtime.data.renderers.formats import formats_of, names_of, stand_in_format
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.tokenizer import chosen_tokenizer, load_tokenizer
from dreadnode_runtime.data.vision import vision_of
from dreadnode_runtime.errors import JobFailed, plain


@lru_cache(maxsize=8)
def load_rendering(
    model: str,
    *,
    rehearsal: bool,
    tokenizer: str,
    renderer: str | None = None,
    chosen: str | None = None,
) -> Rendering:
    """Return the rendering that MODEL is trained with.

    Args:
        model: Its catalog id.
        rehearsal: Whether the stand-in is trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.
        renderer: Name of the variant that its weights were trained with, if that is known.
        chosen: Folder of the tokenizer that the job names, if it does.

    Raises:
        JobFailed: There is no such renderer or tokenizer here; the sentence says what to do.
    """
    name = STAND_IN_RENDERER
    names: list[str] = []
    if not rehearsal:
        try:
            names = names_of(model)
        except (TinkerCookbookError, KeyError, ValueError) as error:
            raise JobFailed(
                f"No renderer is known for {model}, so its chat format cannot be written; "
                "choose another model of `dn train catalog`",
                code="model",
            ) from error
        name = names[0]
    if chosen is None:
        loaded, folder = load_tokenizer(model, tokenizer), tokenizer
    else:
        loaded, folder = chosen_tokenizer(model, chosen, tokenizer), chosen
    try:
        if rehearsal:
            formats = [stand_in_format(name, StandInReader(loaded), loaded)]
        else:
            formats = formats_of(names, loaded, model)
        # A tokenizer that lacks the format's special tokens shows when they are asked for.
        if not formats[0].stops or not formats[0].trains:
            raise RendererError("it lacks the special tokens of the format")  # noqa: TRY301
    except (RendererError, AssertionError, ImportError, ValueError, AttributeError) as error:
        raise JobFailed(
            f"The renderer `{name}` of {model} does not work with {_named(chosen)} "
            f"({plain(error)}); check {'that' if chosen else 'the'} folder"
            + ("" if chosen else " given with `--model`"),
            code="tokenizer" if chosen else "model",
        ) from error
    rendering = Rendering(
        formats,
        vision=lambda name: vision_of(model, name, loaded, folder, rehearsal=rehearsal),
    )
    return rendering if renderer is None else rendering.named(renderer)


class ChatFormat(BaseModel):
    """What decides how a model's prompts are written; equal for models that share it.

    Attributes:
        model: Catalog id.
        rehearsal: Whether the stand-in takes its place.
        tokenizer: Folder of the tokenizer, or its id on a hub.
        renderer: Variant of the chat format that the weights were trained with, if known.
        chosen_tokenizer: Folder of the tokenizer that the job names, if it does.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    rehearsal: bool
    tokenizer: str
    renderer: str | None = None
    chosen_tokenizer: str | None = None

    def rendering(self) -> Rendering:
        """Load the rendering with this format.

        Raises:
            JobFailed: As `load_rendering`.
        """
        return load_rendering(
            self.model,
            rehearsal=self.rehearsal,
            tokenizer=self.tokenizer,
            renderer=self.renderer,
            chosen=self.chosen_tokenizer,
        )


def _named(chosen: str | None) -> str:
    if chosen is None:
        return "the tokenizer of the model that this server's engine holds"
    return f"the tokenizer that `tokenizer` names, {chosen}"
