"""A conversation as the text of a format, refused where the format would lose a part of it."""

from collections.abc import Sequence

from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.renderers.chat import Chat, chat_of, one_call_each
from dreadnode_runtime.data.renderers.probes import Probe
from dreadnode_runtime.data.renderers.turn_skeletons import SplitTurn, TurnSkeletons
from dreadnode_runtime.data.renderers.turns import Format, Turn
from dreadnode_runtime.data.rows import must_be_unicode
from dreadnode_runtime.errors import plain


class ConversationWriter:
    """Writes conversations in one format.

    Args:
        format_: The format.
        has_tool_calls: Whether any format of the model writes tool calls.
    """

    def __init__(self, format_: Format, *, has_tool_calls: bool) -> None:
        self._format = format_
        self._name = format_.name
        self._has_tool_calls = has_tool_calls
        self._skeletons = TurnSkeletons(self._written, format_.encoder)

    def prompt(self, conversation: Conversation) -> str:
        """Return the text that the model continues after CONVERSATION.

        Raises:
            Unusable: The format cannot write it.
        """
        chat, _ = self._chat(conversation)
        try:
            text = self._format.writer.write(chat, prompt=True)
        except Exception as error:
            raise self._refused(error) from error
        self._must_hold_context(chat, text)
        must_be_unicode(text)
        return text

    def turns(self, conversation: Conversation, train_on: str) -> list[SplitTurn] | Unusable:
        """Return the trained turns of CONVERSATION, split at control tokens."""
        try:
            trained = trained_messages(conversation, train_on)
            known = self._skeletons.turns(conversation, trained)
            if known is not None:
                return known
            split = self._format.encoder.split
            return [
                SplitTurn(split(turn.prompt), split(turn.completion))
                for turn in self._written(conversation, trained)
            ]
        except Unusable as unusable:
            return unusable

    def _written(self, conversation: Conversation, trained: Sequence[int]) -> list[Turn]:
        """Return the TRAINED messages of CONVERSATION as text, each with its prompt."""
        chosen = set(trained)
        self._must_be_unformatted(conversation, chosen)
        chat, origins = self._chat(conversation)
        return [self._turn(chat, index) for index, each in enumerate(origins) if each in chosen]

    def _chat(self, conversation: Conversation) -> tuple[Chat, list[int]]:
        """Return CONVERSATION as it is written, and the original index of each written message."""
        calls = conversation.tools or any(
            "tool_calls" in message for message in conversation.messages
        )
        if calls and not self._has_tool_calls:
            raise Unusable(f"{self._name} has no tool calls")
        chat = chat_of(conversation, self._format.encoder.cover)
        if self._format.one_call_at_a_time:
            return one_call_each(chat)
        return chat, list(range(len(chat.messages)))

    def _turn(self, chat: Chat, index: int) -> Turn:
        message = chat.messages[index]
        reasons = "reasoning_content" in message
        trains = self._format.trains
        if reasons and Probe.REASONING not in trains:
            raise Unusable(f"{self._name} has no place for the reasoning of an answer")
        if not reasons and Probe.TEXT not in trains and Probe.REASONING in trains:
            raise Unusable(f"{self._name} has reasoning in every answer, and this row does not")
        try:
            turn = self._format.turn(chat, index)
        except Exception as error:
            raise self._refused(error) from error
        for part in (message["content"], message.get("reasoning_content", "")):
            if isinstance(part, str) and part.strip() not in turn.completion:
                raise Unusable(f"{self._name} leaves out a part of an assistant message")
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] not in turn.completion:
                raise Unusable(f"{self._name} leaves out a tool call of an assistant message")
        self._must_hold_context(chat.until(index), turn.prompt)
        must_be_unicode(turn.prompt + turn.completion)
        return turn

    def _must_hold_context(self, chat: Chat, prompt: str) -> None:
        """Refuse a conversation of which PROMPT leaves out what a system or user says."""
        for message in chat.messages:
            text = message["content"]
            if message["role"] not in ("system", "user") or not isinstance(text, str):
                continue
            if text.strip() not in prompt:
                raise Unusable(f"{self._name} leaves out a {message['role']} message")
        for tool in chat.tools:
            if tool["function"]["name"] not in prompt:
                raise Unusable(f"{self._name} leaves out the tool `{tool['function']['name']}`")

    def _must_be_unformatted(self, conversation: Conversation, trained: set[int]) -> None:
        """Refuse a row that holds the format's own control tokens: one within the other."""
        for index, message in enumerate(conversation.messages):
            content = message["content"]
            text = content if isinstance(content, str) else ""
            if not isinstance(content, str):
                text = "".join(part["text"] for part in content if part["type"] == "text")
            found = self._format.encoder.control_token_in(text, self._format.structure)
            edge = text.strip()
            if found and (index in trained or edge.startswith(found) or edge.endswith(found)):
                raise self._holds(found)

    def _refused(self, error: Exception) -> Unusable:
        return Unusable(f"{self._name} cannot render it: {plain(error)}")

    def _holds(self, token: str) -> Unusable:
        return Unusable(f"it already holds `{token}`, which {self._name} writes itself")
