"""Writes conversations with a renderer of tinker-cookbook, as text instead of tokens.

A renderer encodes piece by piece what its format writes. Given a tokenizer that only remembers the
pieces, it writes text, which is then encoded as every other format's: joined, with control tokens
for the format alone, and each piece once.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

import tinker
from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, Renderer, ToolCall, ToolSpec, TrainOnWhat

from dreadnode_runtime.data.renderers.chat import Chat


class PieceTokenizer:
    """A tokenizer whose tokens are whole pieces of text, numbered in the order they are seen.

    Anything else that a renderer asks for is the real tokenizer's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[str] = []
        self._numbers: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __deepcopy__(self, _memo: Any) -> "PieceTokenizer":
        return self

    @property
    def backend_tokenizer(self) -> "PieceBackend":
        """What a renderer copies to encode text without special tokens."""
        return PieceBackend(self)

    def encode(self, text: str, **_: Any) -> list[int]:
        """Return the number of TEXT, as if it were one token."""
        if not text:
            return []
        number = self._numbers.setdefault(text, len(self._pieces))
        if number == len(self._pieces):
            self._pieces.append(text)
        return [number]

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the number of TOKEN."""
        return self.encode(token)[0]

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        """Return the text of the pieces that TOKENS number."""
        return "".join(self._pieces[token] for token in tokens)

    def forget(self, kept: int) -> None:
        """Drop all pieces but the first KEPT."""
        for piece in self._pieces[kept:]:
            del self._numbers[piece]
        del self._pieces[kept:]

    def __len__(self) -> int:
        return len(self._pieces)


class PieceBackend:
    """The part of `tokenizers.Tokenizer` that renderers use."""

    encode_special_tokens = False

    def __init__(self, tokenizer: PieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self.ids: list[int] = []

    def __deepcopy__(self, _memo: Any) -> "PieceBackend":
        return PieceBackend(self._tokenizer)

    def encode(self, text: str, **_: Any) -> "PieceBackend":
        """Return something whose `ids` number TEXT."""
        made = PieceBackend(self._tokenizer)
        made.ids = self._tokenizer.encode(text)
        return made


class ReadingTokenizer:
    """A tokenizer for reading: what it has is TOKENIZER's, without copies of its vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    @property
    def backend_tokenizer(self) -> "PieceBackend":
        """What a renderer copies to write with, which it is not asked to do."""
        return PieceBackend(PieceTokenizer(self._tokenizer))


class CookbookWriter:
    """Writes with RENDERER, which was made with PIECES as its tokenizer."""

    def __init__(self, renderer: Renderer, pieces: PieceTokenizer) -> None:
        self._renderer = renderer
        self._pieces = pieces
        self._kept = len(pieces)
        # The renderer would write each prompt again to find where loss begins; `Rendering` finds
        # that itself, in what is encoded.
        renderer._train_after_the_generation_prompt = lambda _m, _t, _i, weights: weights

    def write(self, chat: Chat, *, prompt: bool) -> str:
        """Return CHAT as text; with PROMPT, up to where the assistant's next message begins.

        Raises:
            RendererError: The renderer cannot write it.
        """
        messages = [cookbook_message(message) for message in chat.messages]
        try:
            messages = arranged(self._renderer, messages, chat.tools)
            if prompt:
                written = self._renderer.build_generation_prompt(messages)
            else:
                written, _ = self._renderer.build_supervised_example(
                    messages, train_on_what=TrainOnWhat.LAST_ASSISTANT_MESSAGE
                )
            return "".join(self._text(chunk) for chunk in written.chunks)
        except NotImplementedError as error:
            raise RendererError("the format has no tool calls") from error
        finally:
            self._pieces.forget(self._kept)

    def _text(self, chunk: Any) -> str:
        if not isinstance(chunk, tinker.EncodedTextChunk):
            raise RendererError("images cannot be written as text")
        return self._pieces.decode(list(chunk.tokens))


def arranged(
    renderer: Renderer, messages: list[Message], tools: list[dict[str, Any]]
) -> list[Message]:
    """Return MESSAGES with TOOLS declared, as RENDERER's format does it.

    A corrected renderer may do so itself, in `arrange`.
    """
    if (arrange := getattr(renderer, "arrange", None)) is not None:
        found: list[Message] = arrange(messages, tools)
        return found
    if not tools:
        return messages
    system, rest = "", messages
    if messages and messages[0]["role"] == "system":
        system, rest = str(messages[0]["content"]), messages[1:]
    specs = [cast("ToolSpec", tool["function"]) for tool in tools]
    return [*renderer.create_conversation_prefix_with_tools(specs, system), *rest]


def cookbook_message(message: dict[str, Any]) -> Message:
    """Return MESSAGE as tinker-cookbook's renderers take it."""
    content: Any = message["content"]
    if reasoning := message.get("reasoning_content"):
        rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
        rest = [part for part in rest if part.get("text") != ""]
        content = [{"type": "thinking", "thinking": reasoning}, *rest]
    made = Message(role=message["role"], content=content)
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [
            ToolCall(
                id=call.get("id"),
                function=ToolCall.FunctionBody(
                    name=call["function"]["name"],
                    arguments=json.dumps(call["function"]["arguments"], ensure_ascii=False),
                ),
            )
            for call in calls
        ]
    for key in ("tool_call_id", "name"):
        if key in message and message["role"] == "tool":
            made[key] = message[key]
    return made
