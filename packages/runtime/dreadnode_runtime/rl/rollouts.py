"""From a prompt to what can be learnt from: draw a group of answers, judge, compare.

An answer's advantage is its reward less the mean of its group (a leave-none-out baseline, as in
GRPO, Shao et al. 2024), by default not divided by the standard deviation (Dr. GRPO, Liu et al.
2025). Every drawn token carries its answer's advantage, and a loss is the sum over tokens, so each
token counts the same.
"""

import asyncio
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tinker_cookbook.renderers import Message

from dreadnode_runtime.backend.policy import Sampled, Sampler, Sampling, Sequenced
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering, text_of
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.recipes import Answer, Recipe, Score, judge
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.environments import Environment, Episode

EPSILON = 1e-6
"""Keeps a division by a standard deviation finite."""


@dataclass(slots=True)
class _Sequence:
    """A conversation in tokens, as far as each turn only added to it."""

    tokens: list[int]
    logprobs: list[float]
    drawn: list[bool]

    @classmethod
    def of(cls, prompt: Sequence[int]) -> "_Sequence":
        return cls(list(prompt), [0.0] * len(prompt), [False] * len(prompt))

    def add(self, sampled: Sampled) -> None:
        self.tokens += sampled.tokens.tolist()
        self.logprobs += sampled.logprobs.tolist()
        self.drawn += [True] * len(sampled.tokens)

    def extended(self, prompt: Sequence[int]) -> "_Sequence | None":
        """Return this one up to the end of PROMPT, if PROMPT begins with it."""
        if list(prompt[: len(self.tokens)]) != self.tokens:
            return None
        new = len(prompt) - len(self.tokens)
        return _Sequence(list(prompt), self.logprobs + [0.0] * new, self.drawn + [False] * new)


@dataclass(slots=True)
class Rollout:
    """One answer, or one conversation, with what it is worth.

    Attributes:
        sequences: One; more where the format writes a turn differently once it is history.
        score: What it is worth.
        turns: How often the model spoke.
        sampled: Tokens that it drew.
        truncated: Whether a turn met its limit.
        prefilled: Tokens that it read before it spoke, over all turns.
    """

    sequences: list[_Sequence]
    score: Score
    turns: int
    sampled: int
    truncated: bool
    prefilled: int


@dataclass(slots=True)
class Group:
    """The answers to one prompt."""

    prompt: Prompt
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        """One for each answer."""
        return [rollout.score.value for rollout in self.rollouts]

    @property
    def degenerate(self) -> bool:
        """Whether there is nothing to learn: equal rewards, or nothing drawn."""
        return len(set(self.rewards)) < 2 or not any(r.sampled for r in self.rollouts)

    def learnable(self, *, scale: bool) -> list[Sequenced]:
        """Return the sequences to learn from; none if the group is degenerate."""
        if self.degenerate:
            return []
        return [
            Sequenced(
                tokens=np.array(sequence.tokens, np.int32),
                logprobs=np.array(sequence.logprobs, np.float32),
                advantages=np.where(sequence.drawn, np.float32(advantage), np.float32(0)),
                drawn=np.array(sequence.drawn, np.bool_),
                row=self.prompt.row,
            )
            for rollout, advantage in zip(
                self.rollouts, advantages(self.rewards, scale=scale), strict=True
            )
            for sequence in rollout.sequences
            if any(sequence.drawn)
        ]


def advantages(rewards: Sequence[float], *, scale: bool) -> list[float]:
    """Return REWARDS less their mean; with SCALE, over their standard deviation."""
    mean = statistics.fmean(rewards)
    centred = [reward - mean for reward in rewards]
    if not scale:
        return centred
    spread = statistics.pstdev(rewards)
    return [each / (spread + EPSILON) for each in centred]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Draws and judges.

    Attributes:
        rendering: Writes conversations, and reads answers.
        reward: Judges answers.
        sampling: How they are drawn.
        max_length: Tokens of prompt and answers together.
        environment: Answers to tool calls, if there is one.
        max_turns: How often the model speaks at most.
        seed: What the draws depend on.
    """

    rendering: Rendering
    reward: Recipe
    sampling: Sampling
    max_length: int
    environment: Environment | None = None
    max_turns: int = 1
    seed: int = 0

    async def group(self, prompt: Prompt, sampler: Sampler, count: int, index: str) -> Group:
        """Draw COUNT answers to PROMPT and judge them; INDEX tells its draws from all others.

        Raises:
            JobFailed: The weights are no numbers, or a person's code went wrong.
        """
        firsts = await sampler.sample(prompt.tokens, count, self.sampling, self._seed(index))
        rollouts = await asyncio.gather(
            *(
                self._rollout(prompt, sampler, first, f"{index}/{number}")
                for number, first in enumerate(firsts)
            )
        )
        return Group(prompt, rollouts)

    async def _rollout(
        self, prompt: Prompt, sampler: Sampler, first: Sampled, index: str
    ) -> Rollout:
        episode = None if self.environment is None else await self.environment.begin(prompt)
        sequence = _Sequence.of(prompt.tokens)
        sequences, prefilled = [sequence], len(prompt.tokens)
        said, turns, sampled, truncated = first, 0, 0, False
        while True:
            _must_be_numbers(said, prompt)
            turns, sampled = turns + 1, sampled + len(said.tokens)
            truncated = truncated or said.truncated
            sequence.add(said)
            message = self.rendering.answer(said.tokens.tolist())
            following = None
            if episode is not None and not said.truncated and turns < self.max_turns:
                following = await self._following(episode, message)
            if following is None:
                break
            if len(following) + self.sampling.max_tokens > self.max_length:
                truncated = True
                break
            extended = sequence.extended(following)
            if extended is None:
                sequence = _Sequence.of(following)
                sequences.append(sequence)
            else:
                sequence = sequences[-1] = extended
            prefilled += len(following)
            seed = self._seed(f"{index}/{turns}")
            (said,) = await sampler.sample(following, 1, self.sampling, seed)
        state = None if episode is None else episode.state
        answer = Answer(prompt, text_of(message), sampled, truncated, state)
        score = await judge(self.reward, answer)
        return Rollout(sequences, score, turns, sampled, truncated, prefilled)

    async def _following(self, episode: Episode, message: Message) -> list[int] | None:
        """Return the tokens of the next turn's prompt, or nothing when the episode is over."""
        said = await episode.respond(message)
        return None if said is None else self.rendering.prompt(said)

    def _seed(self, index: str) -> int:
        return zlib.crc32(f"{self.seed}/{index}".encode()) & 0x7FFFFFFF


def sampling(rendering: Rendering, config: RlConfig) -> Sampling:
    """Return how CONFIG has answers drawn, in the format of RENDERING."""
    return Sampling(config.max_new_tokens, config.temperature, rendering.stops(config.stop))


def _must_be_numbers(sampled: Sampled, prompt: Prompt) -> None:
    if not np.isfinite(sampled.logprobs).all():
        raise JobFailed(
            f"The model's probabilities are not numbers any more, first seen on {prompt.place}: "
            "lower the learning rate, and go on from the last checkpoint",
            code="diverged",
        )
