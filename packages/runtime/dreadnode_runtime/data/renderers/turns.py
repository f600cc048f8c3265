"""One way to write a model's conversations, turn by turn, and to read its completions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, Renderer

from dreadnode_runtime.data.renderers.chat import Chat
from dreadnode_runtime.data.renderers.probes import Probe
from dreadnode_runtime.data.renderers.skeletons import Writer
from dreadnode_runtime.data.renderers.tokens import MARKUP, Encoder


class NotContinued(RendererError):  # type: ignore[misc]
    """A message is written unlike the prompt that it is sampled after."""


def _common(one: str, other: str) -> int:
    """Return how many characters ONE and OTHER begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class Turn:
    """A trained message: the prompt before it, and what the model has to say to it."""

    prompt: str
    completion: str


@dataclass
class Format:
    """One way to write a model's conversations, and to read its completions.

    Attributes:
        name: The renderer's name in tinker-cookbook's registry.
        source: Who writes it.
        writer: Writes conversations.
        reader: Reads completions, and knows what ends them.
        encoder: Encodes what is written.
        trains: The probes whose assistant messages continue their prompts.
        differences: How it differs from the tokenizer's chat template, one sentence each.
        ends: What ends a message without and with tool calls.
    """

    name: str
    source: str
    writer: Writer
    reader: Renderer
    encoder: Encoder
    trains: frozenset[Probe] = frozenset()
    differences: tuple[str, ...] = ()
    ends: dict[bool, str] = field(default_factory=dict)

    @cached_property
    def stops(self) -> list[str]:
        """What ends a completion, as text."""
        name = self.encoder.name_of
        return [e if isinstance(e, str) else name(e) for e in self.reader.get_stop_sequences()]

    @cached_property
    def structure(self) -> list[str]:
        """The control tokens that it writes around messages, those that end them first."""
        chat = Probe.TEXT.chat
        written = self.writer.write(chat.until(1), prompt=True)
        written += self.writer.write(chat, prompt=False)
        found = [name for name in self.encoder.control_tokens_in(written) if name not in MARKUP]
        return [*self.stops, *(name for name in found if name not in self.stops)]

    @property
    def one_call_at_a_time(self) -> bool:
        """Whether a message holds at most one tool call, whose result follows."""
        return self.name.startswith(("gpt_oss", "llama3"))

    def turn(self, chat: Chat, index: int) -> Turn:
        """Return the prompt for message INDEX of CHAT, and that message up to where it ends.

        Raises:
            NotContinued: The message does not begin where the prompt ends.
            RendererError: It cannot be written.
        """
        prompt = self.writer.write(chat.until(index), prompt=True)
        whole = self.writer.write(chat.until(index + 1), prompt=False)
        message = chat.messages[index]
        if whole.startswith(prompt):
            completion = whole[len(prompt) :]
        else:
            completion = self._alone(prompt, message, chat.tools)
        return Turn(prompt, self._ended(completion, message))

    def read(self, tokens: Sequence[int]) -> Message:
        """Return the assistant message in the TOKENS of a completion."""
        try:
            message, _ = self.reader.parse_response(list(tokens))
        except RendererError:
            # More than one end-of-turn token: a sampler stopped at none of them.
            text = self.reader.tokenizer.decode(list(tokens))
            return Message(role="assistant", content=str(text))
        return message

    def _ended(self, completion: str, message: dict[str, Any]) -> str:
        """Return COMPLETION up to its end-of-turn token, which is added where it is missing."""
        end = max((completion.rfind(s) + len(s) for s in self.stops if s in completion), default=0)
        if end and not completion[end:].strip():
            return completion[:end]
        calls = bool(message.get("tool_calls"))
        return completion.rstrip("\n") + self.ends.get(calls, self.stops[0])

    def _alone(self, prompt: str, message: dict[str, Any], tools: list[dict[str, Any]]) -> str:
        """Return MESSAGE as it answers a single question, to go behind PROMPT.

        A template may drop the reasoning of a turn once its answer is there. The prompt for the
        answer still holds it, so the two do not continue each other where both are written whole.
        """
        asked = [{"role": "user", "content": "?"}]
        short = self.writer.write(Chat(asked, tools), prompt=True)
        without = self.writer.write(Chat(asked, tools), prompt=False)
        opening = short[_common(short, without) :]
        whole = self.writer.write(Chat([*asked, message], tools), prompt=False)
        if not (opening and whole.startswith(short) and prompt.endswith(opening)):
            raise NotContinued("it writes this answer unlike the prompt that answers follow")
        return whole[len(short) :]
