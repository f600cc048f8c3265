"""A dataset's row, in any dialect, to a conversation in normal form.

| shape | fields |
| --- | --- |
| chat | `messages`, `conversations` or `conversation`: OpenAI, Anthropic, ShareGPT, ms-swift |
| Gemini | `contents` |
| trajectory (ATIF) | `steps`, `agent.tool_definitions` |
| prompt and answer | see `dialects.pairs`: TRL, LLaMA-Factory, Dolly |

Beside each: `system`, `system_prompt`, `tools` and other names of them, `images`, `weight`, labels.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dreadnode_runtime.data import marks
from dreadnode_runtime.data.dialects import atif, pairs, preference, sharegpt, tools
from dreadnode_runtime.data.dialects.openai import read_messages
from dreadnode_runtime.data.dialects.parts import read_content
from dreadnode_runtime.data.fields import Fields, Findings, holds
from dreadnode_runtime.data.images import read_image
from dreadnode_runtime.data.normal_form import (
    Conversation,
    ImagePart,
    Row,
    Tool,
    Unusable,
    content_text,
    scalar_text,
    shown,
)
from dreadnode_runtime.data.turns import Turn, assemble, text_turn

CHATS = (*sharegpt.FIELDS, "contents", "steps")
"""Fields that hold a whole conversation; the first one that holds any is used."""
SYSTEMS = ("system", "system_prompt", "system_instruction", "systemInstruction")


def read_conversation(row: Row) -> Conversation:
    """Return what ROW says, for supervised training.

    Raises:
        Unusable: It holds no conversation, or one that cannot be trained on.
    """
    try:
        found = Findings()
        fields = Fields(row, found)
        preference.refuse_preference(fields)
        marks.refuse_bad_answer(fields)
        weight = marks.row_weight(fields)
        name, chat = _chat(fields)
        if chat is not None:
            turns, answers = _chat_turns(name, chat, found), 0
        else:
            if not pairs.has_pair(fields):
                raise Unusable(_nothing(row))
            prompt = pairs.read_prompt(fields, found)
            answer = pairs.read_answer(fields, found)
            # With text alone there is one answer, and a `history` is trained as `train_on` says.
            listed = any(
                isinstance(pairs.messages_in(row.get(each)), list)
                for each in (*pairs.PROMPTS, *pairs.ANSWERS)
            )
            turns, answers = [*prompt, *answer], len(answer) if listed else 0
            if listed and prompt[-1].role == "assistant":
                raise Unusable("its prompt ends with an assistant message; end it with the user's")
        return replace(_finished(turns, fields, found, answers), weight=weight)
    except RecursionError:
        raise Unusable("it is nested too deeply") from None


def read_question(row: Row) -> tuple[Conversation, str | None]:
    """Return what ROW asks, for reinforcement learning, and the answer that it expects, if any.

    A conversation's last message is the expected answer where the assistant says it. What else the
    row holds is the reward's.

    Raises:
        Unusable: It asks nothing, or begins the answer itself.
    """
    try:
        found = Findings()
        fields = Fields(row, found)
        name, chat = _chat(fields)
        if chat is None:
            turns = pairs.read_prompt(fields, found)
            expected = _expected(pairs.expected_answer(fields), found)
            if turns[-1].role == "assistant":
                raise Unusable("its prompt ends with an assistant message; end it with the user's")
        else:
            turns = _chat_turns(name, chat, found)
            expected = _expected(pairs.expected_answer(fields), found)
        for each in ("reward", "success"):
            fields.take(each)
        conversation = _finished(turns, fields, found, 0)
        last = conversation.messages[-1]
        if last["role"] != "assistant":
            return conversation, expected
        if expected is not None:
            raise Unusable(
                f"`{name}` ends with an assistant message, and the row has an answer beside it; "
                "a completion cannot continue a message: end with the user's"
            )
        rest = conversation.messages[:-1]
        if all(message["role"] == "system" for message in rest):
            raise Unusable("no prompt")
        return replace(conversation, messages=rest, chosen=None), content_text(last["content"])
    except RecursionError:
        raise Unusable("it is nested too deeply") from None


def _chat(fields: Fields) -> tuple[str, list[Any] | None]:
    """Take the conversation of a row with FIELDS, and the name of its field; None without one."""
    empty = ""
    for name in CHATS:
        value = fields.peek(name)
        if value is None:
            continue
        if isinstance(value, str) and not value.strip():
            continue
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise Unusable(f"`{name}` is text and not a JSON list: {shown(value)}") from None
        if isinstance(value, Mapping) and name == "contents":
            value = [value]
        if not isinstance(value, list):
            raise Unusable(f"`{name}` is {shown(value)}, which is not a list of messages")
        fields.take(name)
        if value:
            return name, value
        empty = name
    if empty and not pairs.has_pair(fields):
        raise Unusable(f"no messages: `{empty}` is empty")
    return "", None


def _chat_turns(name: str, chat: list[Any], found: Findings) -> list[Turn]:
    return atif.read_steps(chat, found) if name == "steps" else read_messages(chat, found, name)


def _finished(turns: list[Turn], fields: Fields, found: Findings, answers: int) -> Conversation:
    """Return the conversation of TURNS with the system prompts, tools and images of FIELDS."""
    if isinstance(images := fields.peek("images"), list) and images:
        fields.take("images")
        sharegpt.place_images(turns, images, lambda raw: _image(raw, found))
    systems = [text for name in SYSTEMS if name in fields if (text := _system(fields, name, found))]
    declared = _tools(fields, found)
    fields.close()
    conversation = assemble(
        [*(text_turn("system", text) for text in systems), *turns],
        declared,
        found,
        answers=answers,
    )
    first = next((m for m in conversation.messages if m["role"] != "system"), None)
    if first is None:
        raise Unusable("no messages but system prompts")
    if first["role"] == "assistant":
        raise Unusable("the conversation begins with the assistant; begin it with the user")
    return conversation


def _system(fields: Fields, name: str, found: Findings) -> str:
    """Take a row's system prompt: text, text blocks, or Gemini's object with parts."""
    raw = fields.take(name)
    if isinstance(raw, Mapping):
        inner = Fields(raw, found, f"{name}.")
        inner.take("role")
        raw = inner.take("parts", "content") if "text" not in inner else inner.take("text")
        inner.close()
    parts, calls, results = read_content(raw, found, f"{name}.")
    if calls or results or any(part["type"] != "text" for part in parts):
        raise Unusable(f"its `{name}` holds more than text")
    joined = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    return joined if joined.strip() else ""


def _tools(fields: Fields, found: Findings) -> list[Tool]:
    for name in tools.FIELDS:
        if holds(fields.peek(name)):
            return tools.read_tools(fields.take(name), found)
    agent = fields.peek("agent")
    if isinstance(agent, Mapping):
        inner = Fields(fields.take("agent"), found, "agent.")
        declared = inner.take("tool_definitions")
        inner.close()
        return tools.read_tools(declared, found)
    return []


def _image(raw: Any, found: Findings) -> ImagePart:
    return read_image(Fields({"image": raw}, found))


def _expected(raw: Any, found: Findings) -> str | None:
    if raw is None:
        return None
    if isinstance(raw, list):
        turns = read_messages(raw, found, "answer")
        if not turns:
            return None
        return content_text(assemble(turns[-1:], [], Findings()).messages[-1]["content"])
    return scalar_text(raw)


def _nothing(row: Row) -> str:
    names = [name for name, value in row.items() if holds(value)]
    if names == ["text"]:
        return "no conversation: the row has `text` only; use `format: text` to train on plain text"
    listed = ", ".join(f"`{name}`" for name in names[:12]) or "none"
    return f"no messages, and no prompt with an answer; its fields are {listed}"
