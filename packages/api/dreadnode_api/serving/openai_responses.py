"""The responses of OpenAI's protocol, from the results of a serving process."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreadnode_api.checkpoints.targets import Target
from dreadnode_api.serving.requests import tool_call

Fields = dict[str, Any]


class Head:
    """The fields that all objects of one response share.

    Args:
        kind: `chat.completion` or `text_completion`.
        model: The model as the request names it.
        target: The weights that answer.
    """

    def __init__(self, kind: str, model: str, target: Target) -> None:
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        self._kind = kind
        self._fields = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": target.opening["checkpoint"],
        }
        self._weights = {"weights": dict(target.weights)} if target.weights else {}

    def whole(self, choices: Sequence[Fields], usage: Fields) -> Fields:
        """Return the response of a request that does not stream."""
        return {
            "object": self._kind,
            **self._fields,
            "choices": list(choices),
            "usage": usage,
            **self._weights,
        }

    def chunk(self, choices: Sequence[Fields], **more: Any) -> Fields:
        """Return one event of a stream."""
        kind = f"{self._kind}.chunk" if self._kind.startswith("chat") else self._kind
        return {"object": kind, **self._fields, "choices": list(choices), **more}

    def last(self, usage: Fields, *, include_usage: bool) -> Fields | None:
        """Return the event that ends a stream with its usage, or with the weights."""
        if not include_usage and not self._weights:
            return None
        return self.chunk([], **({"usage": usage} if include_usage else {}), **self._weights)


def usage_of(results: Sequence[Mapping[str, Any]]) -> Fields:
    """Return the tokens of all RESULTS together."""
    found = [result["usage"] for result in results]
    prompt = sum(each["prompt_tokens"] for each in found)
    completion = sum(each["completion_tokens"] for each in found)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(each["cached_tokens"] for each in found)},
    }


def chat_choice(index: int, choice: Mapping[str, Any]) -> Fields:
    """Return a choice of a chat completion."""
    message = choice["message"]
    calls = tool_calls(message)
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": message["content"] or (None if calls else ""),
            "reasoning_content": message["reasoning"],
            "refusal": None,
            **({"tool_calls": calls} if calls else {}),
        },
        "logprobs": _chat_logprobs(choice),
        "finish_reason": finish_reason(choice),
    }


def chat_end(index: int, choice: Mapping[str, Any]) -> Iterator[Fields]:
    """Yield the last choices of a streamed chat completion: its calls, and why it ended."""
    for number, call in enumerate(tool_calls(choice["message"])):
        yield {
            "index": index,
            "delta": {"tool_calls": [{"index": number, **call}]},
            "logprobs": None,
            "finish_reason": None,
        }
    yield {
        "index": index,
        "delta": {},
        "logprobs": _chat_logprobs(choice),
        "finish_reason": finish_reason(choice),
    }


def chat_delta(part: Mapping[str, Any]) -> Fields:
    """Return a choice of a streamed chat completion with a new PART of its message."""
    names = {"content": "content", "reasoning": "reasoning_content"}
    delta = {names[key]: text for key, text in part.items() if key in names}
    return {"index": part["index"], "delta": delta, "logprobs": None, "finish_reason": None}


def text_choice(index: int, choice: Mapping[str, Any]) -> Fields:
    """Return a choice of a completion without a chat format."""
    return {
        "index": index,
        "text": choice["text"],
        "logprobs": _text_logprobs(choice),
        "finish_reason": choice["finish_reason"],
    }


def tool_calls(message: Mapping[str, Any]) -> list[Fields]:
    """Return the tool calls of MESSAGE."""
    found = []
    for number, call in enumerate(message["tool_calls"]):
        name_id, name, arguments = tool_call(call, number)
        function = {"name": name, "arguments": arguments}
        found.append({"id": name_id, "type": "function", "function": function})
    return found


def finish_reason(choice: Mapping[str, Any]) -> str:
    """Return why a chat completion ended."""
    return "tool_calls" if choice["message"]["tool_calls"] else str(choice["finish_reason"])


def _chat_logprobs(choice: Mapping[str, Any]) -> Fields | None:
    found = choice.get("logprobs")
    return None if found is None else {"content": found, "refusal": None}


def _text_logprobs(choice: Mapping[str, Any]) -> Fields | None:
    found = choice.get("logprobs")
    if found is None:
        return None
    offsets, length = [], 0
    for entry in found:
        offsets.append(length)
        length += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in found],
        "token_logprobs": [entry["logprob"] for entry in found],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in found
        ],
        "text_offset": offsets,
    }
