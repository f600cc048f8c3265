"""Reads a sampled completion: its message, and the text of its answer.

The answer is what the model says to the user: without reasoning, without the token or string that
ended the completion, and without tool calls. A completion whose reasoning never ends has no answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tinker_cookbook.renderers import Message

from dreadnode_runtime.data.reasoning import CLOSE, OPEN
from dreadnode_runtime.data.renderers.messages import text_of
from dreadnode_runtime.data.rendering import END_OF_DOCUMENT, Rendering

_TAIL = 16
"""Tokens at the end of a prompt in which a format can open the reasoning."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion that was read.

    Attributes:
        message: The assistant message, with reasoning and tool calls apart.
        answer: The text of the answer; None if the reasoning never ends.
    """

    message: Message
    answer: str | None


def read_completion(
    rendering: Rendering,
    prompt: Sequence[int],
    tokens: Sequence[int],
    *,
    stop: Sequence[str] = (),
    truncated: bool = False,
) -> Reply:
    """Return the completion that TOKENS after PROMPT are.

    Args:
        rendering: The chat format.
        prompt: Tokens of the prompt.
        tokens: Sampled tokens, including those that ended the completion.
        stop: The job's own stop strings.
        truncated: Whether the completion was cut at its token limit.
    """
    body = _without_end(rendering, list(tokens), () if truncated else stop)
    # With the format's own end token behind it, every completion is parsed as a whole message.
    message = rendering.answer([*body, *_end_of_turn(rendering)])
    opened = rendering.decode(prompt[-_TAIL:]).rstrip().endswith(OPEN)
    answer = _without_reasoning(text_of(message), opened=opened and not _has_reasoning(message))
    if truncated and not answer and _has_reasoning(message):
        answer = None
    return Reply(message, answer)


def _without_end(rendering: Rendering, tokens: list[int], stop: Sequence[str]) -> list[int]:
    """Return TOKENS up to the token or the string that ended the completion."""
    end_ids = end_tokens(rendering)
    while tokens and tokens[-1] in end_ids:
        tokens.pop()
    if not stop:
        return tokens
    text = rendering.decode(tokens)
    ends = [position for each in stop if (position := text.find(each)) >= 0]
    return rendering.already_rendered(text[: min(ends)]) if ends else tokens


@lru_cache(maxsize=4)
def _end_of_turn(rendering: Rendering) -> tuple[int, ...]:
    """Return the tokens of the format's first stop sequence."""
    first = rendering.stop[0]
    return (first,) if isinstance(first, int) else tuple(rendering.already_rendered(first))


@lru_cache(maxsize=4)
def end_tokens(rendering: Rendering) -> frozenset[int]:
    """Return every token that can end a completion: the format's, and the tokenizer's own."""
    tokenizer = rendering.tokenizer
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[name] for name in END_OF_DOCUMENT if name in vocabulary}
    ids |= {end for end in rendering.stop if isinstance(end, int)}
    return frozenset(ids if tokenizer.eos_token_id is None else ids | {tokenizer.eos_token_id})


def _without_reasoning(text: str, *, opened: bool) -> str | None:
    """Return TEXT behind its reasoning; OPENED says that TEXT begins within the reasoning."""
    if opened and not text.lstrip().startswith(OPEN):
        text = OPEN + text
    while (rest := text.lstrip()).startswith(OPEN):
        _, end, text = rest.partition(CLOSE)
        if not end:
            return None
    return text


def _has_reasoning(message: Message) -> bool:
    content = message["content"]
    return not isinstance(content, str) and any(part["type"] == "thinking" for part in content)
