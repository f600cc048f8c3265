"""Conversations to tokens and weights, in the format that the trained model is served with.

For each trained message the tokens before it are those of the prompt that sampling would continue,
so training and sampling agree for every format and row. A model whose format or tokenizer cannot be
loaded is refused: training it in some generic format would be training another task.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from tinker_cookbook.exceptions import RendererError, TinkerCookbookError
from tinker_cookbook.renderers import Message, get_text_content

from dreadnode_runtime.data.chat_template import STAND_IN_RENDERER, StandInReader
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Unusable, content_text, has_images
from dreadnode_runtime.data.renderers.chat import Chat, chat_of, one_call_each
from dreadnode_runtime.data.renderers.formats import formats_of, names_of, stand_in_format
from dreadnode_runtime.data.renderers.probes import Probe
from dreadnode_runtime.data.renderers.turns import Format, Turn
from dreadnode_runtime.data.sequences import (
    Example,
    Rendered,
    sequences_of,
    sequences_with_images,
)
from dreadnode_runtime.data.tokenizer import load_tokenizer
from dreadnode_runtime.data.vision import Vision, no_vision, vision_of
from dreadnode_runtime.errors import JobFailed, plain

TRAIN_ON = ("all_assistant_messages", "last_assistant_message", "last_assistant_turn")
"""What `train_on` may name: which of a conversation's assistant messages carry loss."""


END_OF_DOCUMENT = ("<|endoftext|>", "<|end_of_text|>")
"""Names of the token that ends a document in pretraining, where that is not the end of a turn."""


class Rendering:
    """The formats of a model, the one that a job uses, and the rules of what carries loss."""

    def __init__(
        self,
        formats: Sequence[Format],
        used: Format | None = None,
        notes: Sequence[str] = (),
        vision: Callable[[str], Vision] = no_vision,
    ) -> None:
        self._formats = formats
        # Loaded with the first image: most jobs have none.
        self._load_vision = vision
        self._format = used or formats[0]
        self._encoder = self._format.encoder
        self._notes = tuple(notes)

    def _with(self, used: Format, notes: Sequence[str]) -> "Rendering":
        return Rendering(self._formats, used, notes, self._load_vision)

    @cached_property
    def _vision(self) -> Vision:
        return self._load_vision(self.name)

    @property
    def name(self) -> str:
        """Name of the format."""
        return self._format.name

    @property
    def source(self) -> str:
        """Who writes it: a chat template, or a renderer."""
        return self._format.source

    @property
    def chosen(self) -> tuple[str, ...]:
        """Why another variant than the model's default writes, where one does."""
        return self._notes

    @property
    def notes(self) -> list[str]:
        """Why this format was chosen, and how it differs from the chat template."""
        format_ = self._format
        return [
            *self._notes,
            *(f"{format_.name}, written by {format_.source}: {d}" for d in format_.differences),
        ]

    def named(self, name: str) -> "Rendering":
        """Return the rendering with the variant NAME, if the model has it."""
        used = next((each for each in self._formats if each.name == name), self._format)
        if used is self._format:
            return self
        return self._with(used, [f"The weights were trained with {name}"])

    @property
    def fits_all(self) -> bool:
        """Whether every conversation is written by the same variant, whatever reasons in it."""
        both = {Probe.TEXT, Probe.REASONING} <= self._formats[0].trains
        return both or len(self._formats) == 1

    def fitted(self, conversations: Iterable[Conversation], train_on: str) -> "Rendering":
        """Return the rendering with the variant that can train on all CONVERSATIONS.

        Some formats sample answers after a prompt that begins a thought, and write an answer
        without reasoning unlike that. Their variant without thinking then writes the whole job.
        """
        if self.fits_all:
            return self
        needs: set[Probe] = set()
        for said in conversations:
            needs |= _needs(said, train_on)
            if len(needs) == 2:
                break
        fitting = [each for each in self._formats if needs <= each.trains]
        if not fitting:
            fitting = [each for each in self._formats if Probe.TEXT in each.trains]
        used = fitting[0] if fitting else self._formats[0]
        if used is self._formats[0]:
            return self
        if Probe.REASONING in used.trains:
            note = f"Some trained messages hold reasoning, for which {self.name} has no place"
        else:
            note = f"{self.name} begins answers with reasoning, and some trained messages have none"
        return self._with(used, [f"{note}, so {used.name} writes this job and its chat"])

    def examples(
        self, said: Conversation, *, row: int, max_length: int, train_on: str = TRAIN_ON[0]
    ) -> tuple[list[Example], bool]:
        """Return the sequences that teach SAID, and whether something was cut off.

        Raises:
            Unusable: There is nothing to train on.
        """
        (found,) = self.batch([(row, said)], max_length=max_length, train_on=train_on)
        if isinstance(found, Unusable):
            raise found
        return found.examples, found.cut

    def batch(
        self,
        rows: Sequence[tuple[int, Conversation]],
        *,
        max_length: int,
        train_on: str = TRAIN_ON[0],
    ) -> list[Rendered | Unusable]:
        """Return what teaches each of ROWS, or why it cannot be used.

        One sequence each, unless the format writes an assistant message differently as history
        than as the turn it was: then a new one begins where a prompt does not continue what was
        trained. All weights of a row add up to its own, so each row counts the same however long
        its answers are, as in tinker-cookbook's supervised loop. Sequences are cut at their end to
        MAX_LENGTH tokens. Rendering many rows at once encodes repeated text once.
        """
        seeing = {index for index, (_, said) in enumerate(rows) if has_images(said)}
        turns: list[list[Turn] | Unusable] = [
            [] if index in seeing else self._turns(said, train_on)
            for index, (_, said) in enumerate(rows)
        ]
        texts = [
            text
            for each in turns
            if not isinstance(each, Unusable)
            for turn in each
            for text in (turn.prompt, turn.completion)
        ]
        encoded = iter(self._encoder.encode_many(texts))
        made: list[Rendered | Unusable] = []
        for index, ((row, said), each) in enumerate(zip(rows, turns, strict=True)):
            if index in seeing:
                made.append(self._with_images(row, said, max_length, train_on))
                continue
            if isinstance(each, Unusable):
                made.append(each)
                continue
            pairs = [(next(encoded), next(encoded)) for _ in each]
            made.append(sequences_of(pairs, row, said.weight, max_length))
        return made

    def _with_images(
        self, row: int, said: Conversation, max_length: int, train_on: str
    ) -> Rendered | Unusable:
        """Return the sequences that teach SAID, which holds images."""
        try:
            for message in said.messages:
                text = content_text(message["content"])
                if found := self._encoder.control_token_in(text, self._format.structure):
                    raise Unusable(f"it already holds `{found}`, which {self.name} writes itself")  # noqa: TRY301
            written = self._vision.write(said, trained_messages(said, train_on))
        except Unusable as unusable:
            return unusable
        if any(len(each.tokens) > max_length for each in written):
            return Unusable("it holds images and is longer than max_sequence_length")
        return sequences_with_images(written, row, said.weight)

    def prompt(self, said: Conversation) -> list[int]:
        """Return the tokens that the model continues when it answers SAID.

        Raises:
            Unusable: The format cannot write it.
        """
        chat, _ = self._chat(said)
        try:
            text = self._format.writer.write(chat, prompt=True)
        except Exception as error:
            raise self._refused(error) from error
        self._must_hold_context(chat, text)
        return self._encoder.encode(text)

    def already_rendered(self, text: str) -> list[int]:
        """Return the tokens of TEXT, whose control tokens are meant as such."""
        return self._encoder.encode_rendered(text)

    def document(self, text: str) -> list[int]:
        """Return the tokens of TEXT as a document for pretraining: no chat format is around it.

        It begins as the tokenizer begins a text, and ends with the token that ends a document.
        """
        tokenizer = self._encoder.tokenizer
        start = [] if tokenizer.bos_token_id is None else tokenizer("")["input_ids"][:1]
        ends = (tokenizer.convert_tokens_to_ids(name) for name in END_OF_DOCUMENT)
        vocabulary = tokenizer.get_vocab()
        known = (
            token for name, token in zip(END_OF_DOCUMENT, ends, strict=True) if name in vocabulary
        )
        end = next(known, tokenizer.eos_token_id)
        return [*start, *self._encoder.encode(self._encoder.cover(text)), end]

    @property
    def stop(self) -> list[int] | list[str]:
        """What ends an answer: token ids, or texts for a format that has no such token."""
        stop: list[int] | list[str] = self._format.reader.get_stop_sequences()
        return stop

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the trained model."""
        return self._encoder.tokenizer

    def stops(self, texts: Sequence[str]) -> list[int] | list[str]:
        """Return what ends an answer when each of TEXTS does too.

        Tinker takes either token ids or texts, so beside texts the format's own end is one.
        """
        return [*self._format.stops, *texts] if texts else self.stop

    def answer(self, tokens: Sequence[int]) -> Message:
        """Return the assistant's message that a model said with TOKENS."""
        return self._format.read(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of TOKENS, special ones included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _chat(self, said: Conversation) -> tuple[Chat, list[int]]:
        """Return SAID as it is written, and which of its messages each written one is of."""
        calls = said.tools or any("tool_calls" in message for message in said.messages)
        if calls and not any(Probe.CALL in each.trains for each in self._formats):
            raise Unusable(f"{self.name} has no tool calls")
        chat = chat_of(said, self._encoder.cover)
        if self._format.one_call_at_a_time:
            return one_call_each(chat)
        return chat, list(range(len(chat.messages)))

    def _turns(self, said: Conversation, train_on: str) -> list[Turn] | Unusable:
        """Return the trained turns of SAID as text."""
        try:
            chosen = set(trained_messages(said, train_on))
            self._must_be_unformatted(said, chosen)
            chat, origins = self._chat(said)
            return [self._turn(chat, index) for index, each in enumerate(origins) if each in chosen]
        except Unusable as unusable:
            return unusable

    def _turn(self, chat: Chat, index: int) -> Turn:
        message = chat.messages[index]
        reasons = "reasoning_content" in message
        trains = self._format.trains
        if reasons and Probe.REASONING not in trains:
            raise Unusable(f"{self.name} has no place for the reasoning of an answer")
        if not reasons and Probe.TEXT not in trains and Probe.REASONING in trains:
            raise Unusable(f"{self.name} has reasoning in every answer, and this row does not")
        try:
            turn = self._format.turn(chat, index)
        except Exception as error:
            raise self._refused(error) from error
        for part in (message["content"], message.get("reasoning_content", "")):
            if isinstance(part, str) and part.strip() not in turn.completion:
                raise Unusable(f"{self.name} leaves out a part of an assistant message")
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in turn.completion:
                raise Unusable(f"{self.name} leaves out a tool call of an assistant message")
        self._must_hold_context(chat.until(index), turn.prompt)
        return turn

    def _must_hold_context(self, chat: Chat, prompt: str) -> None:
        """Refuse a conversation of which PROMPT leaves out what a system or user says."""
        for message in chat.messages:
            said = message["content"]
            if message["role"] not in ("system", "user") or not isinstance(said, str):
                continue
            if said.strip() not in prompt:
                raise Unusable(f"{self.name} leaves out a {message['role']} message")
        for tool in chat.tools:
            if tool["function"]["name"] not in prompt:
                raise Unusable(f"{self.name} leaves out the tool `{tool['function']['name']}`")

    def _must_be_unformatted(self, said: Conversation, trained: set[int]) -> None:
        """Refuse a row that holds the format's own control tokens: one within the other."""
        for index, message in enumerate(said.messages):
            content = message["content"]
            text = content if isinstance(content, str) else ""
            if not isinstance(content, str):
                text = "".join(part["text"] for part in content if part["type"] == "text")
            found = self._encoder.control_token_in(text, self._format.structure)
            edge = text.strip()
            if found and (index in trained or edge.startswith(found) or edge.endswith(found)):
                raise Unusable(f"it already holds `{found}`, which {self.name} writes itself")

    def _refused(self, error: Exception) -> Unusable:
        return Unusable(f"{self.name} cannot render it: {plain(error)}")


def _needs(said: Conversation, train_on: str) -> set[Probe]:
    try:
        trained = trained_messages(said, train_on)
    except Unusable:
        return set()
    return {
        Probe.REASONING
        if any(
            part["type"] == "thinking" and part["thinking"].strip()
            for part in said.messages[index]["content"]
            if not isinstance(part, str)
        )
        else Probe.TEXT
        for index in trained
    }


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


@lru_cache(maxsize=8)
def load_rendering(
    model: str, *, rehearsal: bool, tokenizer: str, renderer: str | None = None
) -> Rendering:
    """Return the rendering that MODEL is trained with.

    Args:
        model: Its catalog id.
        rehearsal: Whether the stand-in is trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.
        renderer: Name of the variant that its weights were trained with, if that is known.

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
    loaded = load_tokenizer(model, tokenizer)
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
            f"The renderer `{name}` of {model} does not work with the tokenizer of the model that "
            f"this server's engine holds ({plain(error)}); check the folder given with `--model`",
            code="model",
        ) from error
    rendering = Rendering(
        formats,
        vision=lambda name: vision_of(model, name, loaded, tokenizer, rehearsal=rehearsal),
    )
    return rendering if renderer is None else rendering.named(renderer)
