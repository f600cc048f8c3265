"""Conversations to tokens and weights, in the format that the trained model is served with.

The renderer comes from tinker-cookbook, chosen for the catalog model; a rehearsal uses the
stand-in's own chat template. A model whose renderer or tokenizer cannot be loaded is refused:
training it in some generic format would be training another task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dreadnode.training import get_training_model
from tinker_cookbook import model_info, tokenizer_utils
from tinker_cookbook.exceptions import RendererError, TinkerCookbookError
from tinker_cookbook.renderers import (
    Message,
    Renderer,
    ToolCall,
    ToolSpec,
    TrainOnWhat,
    get_renderer,
    get_text_content,
)

from dreadnode_runtime.data.chat_template import STAND_IN_RENDERER
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.normal_form import Message as NormalMessage
from dreadnode_runtime.errors import JobFailed, plain

_BARE_TOOL = {"description": "", "parameters": {}}
TRAIN_ON = ("all_assistant_messages", "last_assistant_message", "last_assistant_turn")
"""What `train_on` may name: which of a conversation's assistant messages carry loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence to train on.

    Attributes:
        tokens: int32 of shape (T,): prompt and answer.
        weights: float32 of shape (T,): what a token's loss counts, 0 where there is none. The first
            is 0, since nothing comes before it.
        row: Number of the dataset's row, from 1.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    row: int

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which tokens carry loss, of shape (T,)."""
        return self.weights > 0


class Rendering:
    """A renderer with its name, and the rules of what carries loss."""

    def __init__(self, name: str, renderer: Renderer) -> None:
        self.name = name
        self._renderer = renderer
        self._takes_tools = _takes_tools(renderer)

    def examples(
        self, said: Conversation, *, row: int, max_length: int, train_on: str = TRAIN_ON[0]
    ) -> tuple[list[Example], bool]:
        """Return the sequences that teach SAID, and whether something was cut off.

        One sequence, unless the model's format writes an assistant message differently as history
        than as the turn it was: then one for each assistant message, ending there. All weights of a
        row add up to 1, so each row counts the same however long its answers are, as in
        tinker-cookbook's supervised loop. Sequences are cut at their end to MAX_LENGTH tokens.

        Raises:
            Unusable: There is nothing to train on.
        """
        messages, trained = self._messages(said, train_on)
        try:
            rendered = self._render(messages, trained)
        except (RendererError, AssertionError, NotImplementedError, ValueError) as error:
            raise Unusable(f"{self.name} cannot render it: {plain(error)}") from error
        cut = any(len(tokens) > max_length for tokens, _ in rendered)
        kept = [(tokens[:max_length], mask[:max_length]) for tokens, mask in rendered]
        # What follows the last token that carries loss changes nothing: it is not worth its price.
        ends = [(tokens, mask, np.flatnonzero(mask)) for tokens, mask in kept]
        kept = [(t[: at[-1] + 1], mask[: at[-1] + 1]) for t, mask, at in ends if len(at)]
        total = sum(int(mask.sum()) for _, mask in kept)
        if not total:
            raise Unusable("its answer lies beyond max_sequence_length" if cut else "no answer")
        return [
            Example(tokens, (mask * np.float32(said.weight / total)).astype(np.float32), row)
            for tokens, mask in kept
        ], cut

    def prompt(self, said: Conversation) -> list[int]:
        """Return the tokens that the model continues when it answers SAID.

        Raises:
            Unusable: The renderer cannot write it.
        """
        messages, _ = self._messages(said, None)
        try:
            return list(self._renderer.build_generation_prompt(messages).to_ints())
        except (RendererError, AssertionError, NotImplementedError, ValueError) as error:
            raise Unusable(f"{self.name} cannot render it: {plain(error)}") from error

    @property
    def stop(self) -> list[int] | list[str]:
        """What ends an answer: token ids, or texts for a format that has no such token."""
        stop: list[int] | list[str] = self._renderer.get_stop_sequences()
        return stop

    def stops(self, texts: Sequence[str]) -> list[int] | list[str]:
        """Return what ends an answer when each of TEXTS does too.

        Tinker takes either token ids or texts, so beside texts the format's own end is one.
        """
        own = self.stop
        if not texts:
            return own
        return [*(self.decode([e]) if isinstance(e, int) else e for e in own), *texts]

    def answer(self, tokens: Sequence[int]) -> Message:
        """Return the assistant's message that a model said with TOKENS."""
        message, _ = self._renderer.parse_response(list(tokens))
        return message

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of TOKENS, special ones included."""
        return str(self._renderer.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _render(
        self, messages: list[Message], trained: Sequence[int]
    ) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]:
        last = TrainOnWhat.LAST_ASSISTANT_MESSAGE
        if len(trained) > 1 and self._renderer.has_extension_property:
            marked = [
                Message(**{**message, "trainable": index in trained})
                for index, message in enumerate(messages[: trained[-1] + 1])
            ]
            return [self._arrays(marked, TrainOnWhat.CUSTOMIZED)]
        return [self._arrays(messages[: index + 1], last) for index in trained]

    def _arrays(
        self, messages: list[Message], what: TrainOnWhat
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        rendered, weights = self._renderer.build_supervised_example(messages, train_on_what=what)
        mask = (weights > 0).numpy()
        mask[:1] = False
        return np.asarray(rendered.to_ints(), dtype=np.int32), mask

    def _messages(
        self, said: Conversation, train_on: str | None
    ) -> tuple[list[Message], list[int]]:
        """Return cookbook messages, tools in front, and the indices of those that carry loss."""
        if not self._takes_tools and (said.tools or any("tool_calls" in m for m in said.messages)):
            raise Unusable(f"{self.name} has no tool calls")
        messages = [_cookbook_message(message) for message in said.messages]
        trained = [] if train_on is None else trained_messages(said, train_on)
        if said.tools:
            system = messages[0]["content"] if messages[0]["role"] == "system" else None
            rest = messages[0 if system is None else 1 :]
            prefix = self._renderer.create_conversation_prefix_with_tools(
                [ToolSpec(**{**_BARE_TOOL, **tool}) for tool in said.tools],
                system if isinstance(system, str) else "",
            )
            shift = len(prefix) - (0 if system is None else 1)
            messages = [*prefix, *rest]
            trained = [index + shift for index in trained]
        return messages, trained


def text_of(message: Message) -> str:
    """Return what MESSAGE says, its reasoning and its tool calls left out."""
    return str(get_text_content(message))


def plain_message(message: Message) -> dict[str, Any]:
    """Return a renderer's MESSAGE in the form that `data` reads out of rows."""
    plainly: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if calls := message.get("tool_calls"):
        plainly["tool_calls"] = [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in calls
        ]
    return plainly


def load_rendering(model: str, *, rehearsal: bool, tokenizer: str) -> Rendering:
    """Return the rendering that MODEL is trained with.

    Args:
        model: Its catalog id.
        rehearsal: Whether the stand-in is trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.

    Raises:
        JobFailed: There is no such renderer or tokenizer here; the sentence says what to do.
    """
    if rehearsal:
        name = STAND_IN_RENDERER
    else:
        try:
            name = model_info.get_recommended_renderer_name(model)
        except (TinkerCookbookError, KeyError, ValueError) as error:
            raise JobFailed(
                f"No renderer is known for {model}, so its chat format cannot be written; "
                "choose another model of `dn train catalog`",
                code="model",
            ) from error
    loaded = _load_tokenizer(model, tokenizer)
    try:
        renderer = get_renderer(name, loaded, model_name=model)
        rendering = Rendering(name, renderer)
        # A tokenizer that lacks the format's special tokens shows when they are asked for.
        renderer.get_stop_sequences()
        renderer.build_supervised_example(
            [Message(role="user", content="a"), Message(role="assistant", content="b")]
        )
    except (RendererError, AssertionError, ImportError, ValueError, AttributeError) as error:
        raise JobFailed(
            f"The renderer `{name}` of {model} does not work with the tokenizer of the model that "
            f"this server's engine holds ({plain(error)}); check the folder given with `--model`",
            code="model",
        ) from error
    return rendering


def _load_tokenizer(model: str, tokenizer: str) -> Any:
    try:
        if Path(tokenizer).is_dir():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        if get_training_model(model) is None:
            raise ValueError(f"{model} is not in the catalog")  # noqa: TRY301
        return tokenizer_utils.get_tokenizer(model)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise JobFailed(
            f"The tokenizer of {model} cannot be loaded here ({plain(error)}); train a model whose "
            "folder the engine holds, or make its tokenizer available under HF_HOME",
            code="model",
        ) from error


def _takes_tools(renderer: Renderer) -> bool:
    try:
        renderer.create_conversation_prefix_with_tools([], "")
    except NotImplementedError:
        return False
    return True


def _cookbook_message(message: NormalMessage) -> Message:
    made = Message(role=message["role"], content=message["content"])
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [
            ToolCall(
                id=call["id"],
                function=ToolCall.FunctionBody(name=call["name"], arguments=call["arguments"]),
            )
            for call in calls
        ]
    if "tool_call_id" in message:
        made["tool_call_id"] = message["tool_call_id"]
    if "name" in message and message["role"] == "tool":
        made["name"] = message["name"]
    return made
