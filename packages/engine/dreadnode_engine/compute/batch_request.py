"""Sampling requests while they are decoded, and their results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as pb

from dreadnode_engine.compute.prefix_cache import Scope
from dreadnode_engine.compute.prompt_logprobs import PromptScores, topk_message
from dreadnode_engine.compute.sampling import Plan, StopCondition, TokenSampler


@dataclass(eq=False)
class Completion:
    """One completion while it grows.

    Attributes:
        scope: whose prefix its cache is; None once its weights were replaced.
        tokens: sampled so far, with their `logprobs`.
    """

    plan: Plan
    stop_condition: StopCondition
    sampler: TokenSampler
    scope: Scope | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=list)
    stopped: bool = False

    def ended(self) -> bool:
        """Whether the last token ended it."""
        self.stopped = self.stop_condition.reached(self.tokens)
        return self.stopped or len(self.tokens) >= self.plan.max_tokens


@dataclass(eq=False)
class BatchRequest:
    """One request in a batch.

    Attributes:
        done: called once with the result, unless the request fails or is dropped.
        failed: called once with the error, if its weights cannot be loaded or used.
        weights: returns the folder of the adapter, None for the base model; called before every
            step, because the weights of a sampler may be replaced.
        client: whose request it is; clients share the computing equally.
        owner: whose key made it; prefixes are cached for one owner only.
        name: names the request to the crash guard.
        alone: whether no other request may be computed with it.
        completions: those that have been started.
        open: how many have not ended.
        cached_tokens: how many tokens of its prompt came from the prefix cache.
        broken: whether its logits are NaN.
        started: when its prompt began to be computed.
        steps: how many decoding steps it took part in, with so many `step_rows` in all of them.
    """

    plan: Plan
    stop_condition: StopCondition
    done: Callable[[bytes], None]
    failed: Callable[[str], None]
    weights: Callable[[], Path | None] = lambda: None
    client: str = ""
    owner: str = ""
    name: str = ""
    alone: bool = False
    completions: list[Completion] = field(default_factory=list)
    open: int = 0
    scores: PromptScores | None = None
    cached_tokens: int = 0
    broken: bool = False
    started: float | None = None
    steps: int = 0
    step_rows: int = 0

    @property
    def span(self) -> int:
        """The most tokens that one completion may hold in the cache."""
        return len(self.plan.prompt) + self.plan.max_tokens

    @property
    def unstarted(self) -> int:
        """How many completions have not been started."""
        return self.plan.samples - len(self.completions)

    def start_completion(self, scope: Scope) -> Completion:
        """Start the next completion, with the weights of SCOPE."""
        sampler = TokenSampler(self.plan, len(self.completions))
        self.completions.append(Completion(self.plan, self.stop_condition, sampler, scope))
        return self.completions[-1]

    def work(self) -> dict[str, float]:
        """Return how much was computed, and in batches of how many sequences on average."""
        return {
            "sequences": self.plan.samples,
            "prompt_tokens": len(self.plan.prompt),
            "cached_tokens": self.cached_tokens,
            "sampled_tokens": sum(len(each.tokens) for each in self.completions),
            "batch_sequences": round(self.step_rows / max(1, self.steps), 2),
        }

    def encode(self) -> bytes:
        """Return the result."""
        response = pb.SampleResponse()
        for completion in self.completions:
            message = response.sequences.add(
                stop_reason=pb.STOP_REASON_STOP if completion.stopped else pb.STOP_REASON_LENGTH,
                tokens=np.array(completion.tokens, dtype="<i4").tobytes(),
                logprobs=np.array(completion.logprobs, dtype="<f4").tobytes(),
            )
            if completion.top:
                ids, values = (np.concatenate(part) for part in zip(*completion.top, strict=True))
                message.topk_sampled_logprobs.CopyFrom(topk_message(ids, values))
        response.prompt_cache_hit_tokens = self.cached_tokens
        if self.scores is not None:
            self.scores.write(response)
        return response.SerializeToString()
