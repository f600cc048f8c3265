"""Renders a request, samples, and reads the completions as messages or as text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.backend.policy import Sampled, SamplingParams
from dreadnode_runtime.backend.streaming import StreamingSampler
from dreadnode_runtime.data.completions import end_tokens, read_completion
from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import END_OF_DOCUMENT, Rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.serving.deltas import UNKNOWN, MessageDeltas, TextDeltas
from dreadnode_runtime.serving.messages import message_of
from dreadnode_runtime.serving.requests import Generation, ServedModel

Emit = Callable[[Mapping[str, Any]], None]
"""Takes a part of a completion: `index`, and `content` or `reasoning`."""


@dataclass(frozen=True)
class Generator:
    """Answers requests with the weights of one model.

    Attributes:
        served: The model.
        rendering: Its chat format.
        sampler: Samples from its weights.
    """

    served: ServedModel
    rendering: Rendering
    sampler: StreamingSampler

    async def generate(self, request: Generation, emit: Emit) -> dict[str, Any]:
        """Return the completions of REQUEST with their usage, and EMIT parts if it streams.

        The parts of a streamed completion add up to its whole text.

        Raises:
            Unusable: The request cannot be rendered.
            JobFailed: It does not fit, or the engine refuses it.
            TryAgain: The engine cannot do it now.
        """
        prompt = self._prompt(request)
        if request.only_count:
            return {"usage": {"prompt_tokens": len(prompt)}}
        sampling = self._sampling_params(request, len(prompt))
        deltas = [self._deltas(request, prompt) for _ in range(request.n)]

        def on_tokens(index: int, tokens: list[int]) -> None:
            if part := deltas[index].part(tokens):
                emit({"index": index, **part})

        # A call of a tool can be read only as a whole, so a request with tools has one part.
        streams = request.stream and not request.tools
        found = await self.sampler.sample_streamed(
            prompt, request.n, sampling, request.seed, on_tokens if streams else None
        )
        choices = [self._choice(request, prompt, sampled) for sampled in found]
        if request.stream:
            for index, (each, choice) in enumerate(zip(deltas, choices, strict=True)):
                if rest := each.rest(choice.get("message", choice)):
                    emit({"index": index, **rest})
        return {
            "choices": choices,
            "renderer": self.rendering.name,
            "format_notes": [*self.rendering.chosen],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": sum(len(sampled.tokens) for sampled in found),
                "cached_tokens": found[0].cached_tokens,
            },
        }

    def _deltas(self, request: Generation, prompt: list[int]) -> MessageDeltas | TextDeltas:
        if request.messages is None:
            return TextDeltas(self.rendering, request.stop)
        return MessageDeltas(self.rendering, prompt, request.stop)

    def _prompt(self, request: Generation) -> list[int]:
        if request.messages is None:
            if isinstance(request.prompt, list):
                return request.prompt
            tokens = self.rendering.tokenizer(request.prompt or "", verbose=False)["input_ids"]
            if not tokens:
                raise Unusable("the prompt is empty")
            return list(tokens)
        row: dict[str, Any] = {"messages": request.messages, "tools": request.tools}
        if request.system is not None:
            row["system"] = request.system
        said = read_conversation(row)
        # In a dataset, tools without any value are a column that the row does not use.
        if request.tools and not said.tools:
            raise Unusable("a tool has no name")
        return self.rendering.prompt(with_system_prompt(said, self.served.system_prompt))

    def _sampling_params(self, request: Generation, prompt: int) -> SamplingParams:
        context = self.served.context
        room = context - prompt
        if room < 1 or (request.max_tokens or 1) > room:
            raise JobFailed(
                f"The prompt has {prompt:,} tokens and the model's context is {context:,}, too "
                f"short for a completion of {request.max_tokens or 1:,} tokens; ask for fewer, or "
                "shorten the prompt",
                code="config",
            )
        stop: Any = self.rendering.stops(request.stop)
        if request.messages is None:
            # Tinker takes either token ids or strings.
            stop = (
                [*request.stop, *END_OF_DOCUMENT] if request.stop else [*end_tokens(self.rendering)]
            )
        return SamplingParams(
            request.max_tokens or room,
            request.temperature,
            stop,
            request.top_p,
            topk=request.logprobs or 0,
        )

    def _choice(self, request: Generation, prompt: list[int], sampled: Sampled) -> dict[str, Any]:
        tokens = sampled.tokens.tolist()
        choice: dict[str, Any] = {"finish_reason": "length" if sampled.truncated else "stop"}
        if request.messages is None:
            choice["text"] = TextDeltas(self.rendering, request.stop).whole(tokens)
        else:
            reply = read_completion(
                self.rendering,
                prompt,
                tokens,
                stop=request.stop,
                truncated=sampled.truncated,
            )
            choice["message"] = message_of(reply)
        if not sampled.truncated:
            choice["stop_sequence"] = self._stop_sequence(request, tokens)
        if request.logprobs is not None:
            choice["logprobs"] = self._logprobs(sampled)
        return choice

    def _stop_sequence(self, request: Generation, tokens: list[int]) -> str | None:
        """Return the stop string of REQUEST that ended TOKENS, if one did."""
        if not request.stop:
            return None
        text = self.rendering.decode(tokens)
        found = [(text.find(each), each) for each in request.stop if each in text]
        return min(found)[1] if found else None

    def _logprobs(self, sampled: Sampled) -> list[dict[str, Any]]:
        """Return what was sampled at each position, and what else was likely there."""
        tops = sampled.top or [[]] * len(sampled.tokens)
        return [
            {
                **self._token(token, logprob),
                "top_logprobs": [self._token(*each) for each in top],
            }
            for token, logprob, top in zip(
                sampled.tokens.tolist(), sampled.logprobs.tolist(), tops, strict=True
            )
        ]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.rendering.decode([token])
        # A token that is half of a character decodes to a replacement; its bytes are not known.
        known = UNKNOWN not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if known else None}
