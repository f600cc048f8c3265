"""Conversations to tokens and weights, in the format that the trained model is served with.

For each trained message the tokens before it are those of the prompt that sampling would continue,
so training and sampling agree for every format and row. A model whose format or tokenizer cannot be
loaded is refused: training it in some generic format would be training another task.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from tinker_cookbook.renderers import Message

from dreadnode_runtime.data.conversation_text import ConversationWriter
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Unusable, has_images
from dreadnode_runtime.data.renderers.probes import Probe
from dreadnode_runtime.data.renderers.turn_skeletons import SplitTurn
from dreadnode_runtime.data.renderers.turns import Format
from dreadnode_runtime.data.sequences import Example, Rendered, sequences_of, sequences_with_images
from dreadnode_runtime.data.vision import Vision, no_vision

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
        has_tool_calls = any(Probe.CALL in each.trains for each in formats)
        self._writer = ConversationWriter(self._format, has_tool_calls=has_tool_calls)
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
        default = self._formats[0].name
        return self._with(used, [f"The weights were trained with {name}, which replaces {default}"])

    @property
    def fits_all(self) -> bool:
        """Whether one variant writes every conversation, with and without reasoning."""
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
        for conversation in conversations:
            needs |= _needs(conversation, train_on)
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
        self, conversation: Conversation, *, row: int, max_length: int, train_on: str = TRAIN_ON[0]
    ) -> tuple[list[Example], bool]:
        """Return the sequences that teach CONVERSATION, and whether something was cut off.

        Raises:
            Unusable: There is nothing to train on.
        """
        (found,) = self.batch([(row, conversation)], max_length=max_length, train_on=train_on)
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
        seeing = {index for index, (_, conversation) in enumerate(rows) if has_images(conversation)}
        turns: list[list[SplitTurn] | Unusable] = [
            [] if index in seeing else self._writer.turns(conversation, train_on)
            for index, (_, conversation) in enumerate(rows)
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
        for index, ((row, conversation), each) in enumerate(zip(rows, turns, strict=True)):
            if index in seeing:
                made.append(self._with_images(row, conversation, max_length, train_on))
                continue
            if isinstance(each, Unusable):
                made.append(each)
                continue
            pairs = [(next(encoded), next(encoded)) for _ in each]
            made.append(sequences_of(pairs, row, conversation.weight, max_length))
        return made

    def _with_images(
        self, row: int, conversation: Conversation, max_length: int, train_on: str
    ) -> Rendered | Unusable:
        """Return the sequences that teach CONVERSATION, which holds images."""
        try:
            written = self._vision.write(conversation, trained_messages(conversation, train_on))
        except Unusable as unusable:
            return unusable
        if any(len(each.tokens) > max_length for each in written):
            return Unusable("it holds images and is longer than max_sequence_length")
        return sequences_with_images(written, row, conversation.weight)

    def prompt(self, conversation: Conversation) -> list[int]:
        """Return the tokens that the model continues when it answers CONVERSATION.

        Raises:
            Unusable: The format cannot write it.
        """
        if has_images(conversation):
            raise Unusable("it holds images; only supervised training takes them")
        return self._encoder.encode(self._writer.prompt(conversation))

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
        """What ends a completion: token ids, or strings for a format without such a token."""
        stop: list[int] | list[str] = self._format.reader.get_stop_sequences()
        return stop

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the trained model."""
        return self._encoder.tokenizer

    def stops(self, texts: Sequence[str]) -> list[int] | list[str]:
        """Return what ends a completion when each of TEXTS does too.

        Tinker takes either token ids or strings, so with strings the format's own end is one.
        """
        return [*self._format.stops, *texts] if texts else self.stop

    def answer(self, tokens: Sequence[int]) -> Message:
        """Return the assistant's message that a model conversation with TOKENS."""
        return self._format.read(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of TOKENS, special ones included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))


def _needs(conversation: Conversation, train_on: str) -> set[Probe]:
    try:
        trained = trained_messages(conversation, train_on)
    except Unusable:
        return set()
    return {
        Probe.REASONING
        if any(
            part["type"] == "thinking" and part["thinking"].strip()
            for part in conversation.messages[index]["content"]
            if not isinstance(part, str)
        )
        else Probe.TEXT
        for index in trained
    }
