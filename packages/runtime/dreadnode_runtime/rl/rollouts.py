"""Rollouts: sample a group of completions for a prompt, score them, compute advantages.

A completion's advantage is its reward minus the mean reward of its group (as in GRPO, Shao et al.
2024, arXiv:2402.03300, equation 3). By default it is not divided by the group's standard deviation
(Dr. GRPO, Liu et al. 2025, arXiv:2503.20783). Every sampled token carries its completion's
advantage, and a loss is a sum over tokens, so each token counts the same.
"""

import asyncio
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dreadnode_runtime.backend.policy import (
    Sampled,
    Sampler,
    SamplingParams,
    Tokens,
    TrainingSequence,
)
from dreadnode_runtime.data.completions import read_completion
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.normal_form import Message as NormalMessage
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score, score_completion
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.environments import Environment

EPSILON = 1e-6
"""Added to the standard deviation before a division."""
REWARD_TOLERANCE = 1e-9
"""Rewards of a group that differ by less, relative to the largest, count as equal."""


@dataclass(slots=True)
class _Sequence:
    """A conversation in tokens, as long as each turn only appends to it."""

    tokens: list[int]
    logprobs: list[float]
    sampled_mask: list[bool]

    @classmethod
    def of(cls, prompt: Sequence[int]) -> "_Sequence":
        return cls(list(prompt), [0.0] * len(prompt), [False] * len(prompt))

    def add(self, sampled: Sampled) -> None:
        self.tokens += sampled.tokens.tolist()
        self.logprobs += sampled.logprobs.tolist()
        self.sampled_mask += [True] * len(sampled.tokens)

    def extended(self, prompt: Sequence[int]) -> "_Sequence | None":
        """Return this sequence extended to the end of PROMPT, if PROMPT begins with it."""
        if list(prompt[: len(self.tokens)]) != self.tokens:
            return None
        new = len(prompt) - len(self.tokens)
        return _Sequence(
            list(prompt), self.logprobs + [0.0] * new, self.sampled_mask + [False] * new
        )


@dataclass(slots=True)
class Rollout:
    """One completion, or one conversation with an environment, and its score.

    Attributes:
        sequences: One; more if the chat format renders a turn differently once it is history.
        score: The reward.
        turns: Number of completions.
        sampled_tokens: Tokens sampled in all turns.
        truncated: Whether a turn reached its token limit.
        prompt_tokens: Tokens of the prompts of all turns.
        transcript: Each completion as tokens, and each message of the environment in between.
        answer: Text of the last completion as the reward got it; None if its reasoning never ended.
    """

    sequences: list[_Sequence]
    score: Score
    turns: int
    sampled_tokens: int
    truncated: bool
    prompt_tokens: int
    transcript: Sequence[Tokens | NormalMessage] = ()
    answer: str | None = None


@dataclass(slots=True)
class Group:
    """The rollouts of one prompt."""

    prompt: Prompt
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        """The reward of each rollout."""
        return [rollout.score.value for rollout in self.rollouts]

    @property
    def degenerate(self) -> bool:
        """Whether there is nothing to learn: all rewards are equal, or nothing was sampled.

        0.1 + 0.2 and 0.3 differ by a rounding error only, so they are equal here.
        """
        rewards = self.rewards
        tolerance = REWARD_TOLERANCE * max(map(abs, rewards), default=0.0)
        if not any(rollout.sampled_tokens for rollout in self.rollouts):
            return True
        return max(rewards) - min(rewards) <= tolerance

    def training_sequences(self, *, scale: bool) -> list[TrainingSequence]:
        """Return the sequences to train on; none if the group is degenerate."""
        if self.degenerate:
            return []
        return [
            TrainingSequence(
                tokens=np.array(sequence.tokens, np.int32),
                logprobs=np.array(sequence.logprobs, np.float32),
                advantages=np.where(sequence.sampled_mask, np.float32(advantage), np.float32(0)),
                sampled_mask=np.array(sequence.sampled_mask, np.bool_),
                row=self.prompt.row,
            )
            for rollout, advantage in zip(
                self.rollouts, advantages(self.rewards, scale=scale), strict=True
            )
            for sequence in rollout.sequences
            if any(sequence.sampled_mask)
        ]


def advantages(rewards: Sequence[float], *, scale: bool) -> list[float]:
    """Return REWARDS minus their mean; with SCALE, divided by their standard deviation."""
    mean = statistics.fmean(rewards)
    centered = [reward - mean for reward in rewards]
    if not scale:
        return centered
    deviation = statistics.pstdev(rewards)
    return [each / (deviation + EPSILON) for each in centered]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Samples and scores groups of rollouts.

    Attributes:
        rendering: Renders conversations and parses completions.
        reward: Scores completions.
        sampling: Sampling settings.
        max_length: Maximum tokens of prompt and completions together.
        environment: Runs tool calls, if the job has an environment.
        max_turns: Maximum completions of one rollout.
        seed: Random seed for sampling.
        stop: The job's own stop strings, which are not part of a completion's text.
    """

    rendering: Rendering
    reward: Recipe
    sampling: SamplingParams
    max_length: int
    environment: Environment | None = None
    max_turns: int = 1
    seed: int = 0
    stop: Sequence[str] = ()

    async def group(self, prompt: Prompt, sampler: Sampler, count: int, index: str) -> Group:
        """Sample and score COUNT completions of PROMPT; INDEX makes the group's seed unique.

        Raises:
            JobFailed: The weights are not finite, or user code failed.
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
        episode = None
        if self.environment is not None:
            episode = await self.environment.start_episode(prompt)
        sequence, turn_prompt = _Sequence.of(prompt.tokens), prompt.tokens
        sequences, prompt_tokens = [sequence], len(prompt.tokens)
        sampled, turns, sampled_tokens, truncated = first, 0, 0, False
        transcript: list[Tokens | NormalMessage] = []
        while True:
            _check_finite(sampled, prompt)
            turns, sampled_tokens = turns + 1, sampled_tokens + len(sampled.tokens)
            truncated = truncated or sampled.truncated
            sequence.add(sampled)
            transcript.append(sampled.tokens)
            reply = read_completion(
                self.rendering,
                turn_prompt,
                sampled.tokens.tolist(),
                stop=self.stop,
                truncated=sampled.truncated,
            )
            conversation = None
            if episode is not None and not sampled.truncated and turns < self.max_turns:
                conversation = await episode.respond(reply.message)
            if conversation is None:
                break
            transcript += _after_completion(conversation)
            next_prompt = self.rendering.prompt(conversation)
            if len(next_prompt) + self.sampling.max_tokens > self.max_length:
                truncated = True
                break
            extended = sequence.extended(next_prompt)
            if extended is None:
                sequence = _Sequence.of(next_prompt)
                sequences.append(sequence)
            else:
                sequence = sequences[-1] = extended
            prompt_tokens, turn_prompt = prompt_tokens + len(next_prompt), next_prompt
            seed = self._seed(f"{index}/{turns}")
            (sampled,) = await sampler.sample(next_prompt, 1, self.sampling, seed)
        state = None if episode is None else episode.state
        completion = Completion(
            prompt,
            reply.answer or "",
            sampled_tokens,
            truncated,
            state,
            unfinished=reply.answer is None,
        )
        score = await score_completion(self.reward, completion)
        return Rollout(
            sequences,
            score,
            turns,
            sampled_tokens,
            truncated,
            prompt_tokens,
            transcript,
            reply.answer,
        )

    def _seed(self, index: str) -> int:
        return zlib.crc32(f"{self.seed}/{index}".encode()) & 0x7FFFFFFF


def sampling_params(rendering: Rendering, config: RlConfig) -> SamplingParams:
    """Return CONFIG's sampling settings, with the stop sequences of RENDERING."""
    return SamplingParams(config.max_new_tokens, config.temperature, rendering.stops(config.stop))


def _after_completion(conversation: Conversation) -> list[NormalMessage]:
    """Return the messages after the last one of the assistant: the results of its tool calls."""
    messages = conversation.messages
    last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
    return messages[last + 1 :]


def _check_finite(sampled: Sampled, prompt: Prompt) -> None:
    if not np.isfinite(sampled.logprobs).all():
        raise JobFailed(
            f"The model's log-probabilities are not finite, first on {prompt.place}: lower the "
            "learning rate, and resume from the last checkpoint",
            code="diverged",
        )
