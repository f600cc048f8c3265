"""The chat format of a model: who writes it, who reads completions, and what it can be trained on.

A tokenizer's own chat template writes where it can write all that the format's reader reads, since
that is what servers send. Otherwise a renderer writes: one of ours where tinker-cookbook's is
corrected, else tinker-cookbook's. Hybrid models have two variants, with and without thinking.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinker_cookbook import model_info
from tinker_cookbook.renderers import get_renderer

from dreadnode_runtime.data.renderers.chat import Chat
from dreadnode_runtime.data.renderers.cookbook import (
    CookbookWriter,
    PieceTokenizer,
    ReadingTokenizer,
)
from dreadnode_runtime.data.renderers.corrected import registered_name
from dreadnode_runtime.data.renderers.differences import differences
from dreadnode_runtime.data.renderers.probes import Probe, reads_back
from dreadnode_runtime.data.renderers.skeletons import SkeletonWriter
from dreadnode_runtime.data.renderers.template import PlainTemplateWriter, TemplateWriter
from dreadnode_runtime.data.renderers.tokens import Encoder
from dreadnode_runtime.data.renderers.turns import Format

log = logging.getLogger(__name__)

TEMPLATE, OURS, COOKBOOK, STAND_IN = (
    "the tokenizer's own chat template",
    "a renderer of dreadnode",
    "a renderer of tinker-cookbook",
    "the stand-in's own chat template",
)
THINKING = {"enable_thinking": True, "thinking": True, "thinking_mode": "thinking"}
NOT_THINKING = {"enable_thinking": False, "thinking": False, "thinking_mode": "chat"}
"""Arguments that switch thinking on or off; each template reads the name that it knows."""
WITHOUT_REASONING = ("qwen3_instruct", "qwen3_vl_instruct", "llama3", "role_colon")
"""Formats that have no place for reasoning, though a renderer may write it as text."""
OF_SERVERS = {"gpt_oss_no_sysprompt": "gpt_oss_medium_reasoning"}
"""What servers send by default, where tinker-cookbook's first choice is another."""


def names_of(model: str) -> list[str]:
    """Return the names of MODEL's renderers: its default, and the variant that thinks or does not.

    Raises:
        TinkerCookbookError, KeyError, ValueError: No renderer is known for MODEL.
    """
    default, *others = model_info.get_recommended_renderer_names(model)
    names = [OF_SERVERS.get(default, default)]
    names += [name for name in others if "disable_thinking" in name or name.endswith("_thinking")]
    names = [n for n in names if not n.endswith(("low_thinking", "medium_thinking"))]
    names = [n for n in names if "preserve" not in n]
    if "/Qwen3.6-" in model:
        names = [name.replace("qwen3_5", "qwen3_6") for name in names]
    return names


def formats_of(names: Sequence[str], tokenizer: Any, model: str) -> list[Format]:
    """Return the formats that the renderers NAMES stand for, the preferred one first.

    Raises:
        RendererError: The tokenizer lacks tokens that the format needs.
    """
    encoder = Encoder(tokenizer)
    written = [_rendered(name, tokenizer, model, encoder) for name in names]
    known: set[Probe] = set()
    for made in written:
        _probe(made)
        known |= made.trains
    template = list(_templated(names, tokenizer, written))
    writes: set[Probe] = set()
    for made in template:
        made.ends = dict(written[0].ends)
        _probe(made)
        writes |= made.trains
    if template and known <= writes:
        return template
    for made in written:
        like = next((each for each in template if each.name == made.name), None)
        made.differences = differences(made, like)
    return written


def stand_in_format(name: str, reader: Any, tokenizer: Any) -> Format:
    """Return the format of a stand-in: its own chat template, tools as text where it has none."""
    encoder, writer = Encoder(tokenizer), SkeletonWriter(PlainTemplateWriter(tokenizer))
    made = Format(name, STAND_IN, writer, reader, encoder)
    _probe(made)
    return made


def _rendered(name: str, tokenizer: Any, model: str, encoder: Encoder) -> Format:
    """Return the format NAME as written by its renderer, ours where there is one."""
    registered = registered_name(name)
    reader = get_renderer(registered, ReadingTokenizer(tokenizer), model_name=model)
    pieces = PieceTokenizer(tokenizer)
    renderer = get_renderer(registered, pieces, model_name=model)
    writer = SkeletonWriter(CookbookWriter(renderer, pieces))
    return Format(name, COOKBOOK if registered == name else OURS, writer, reader, encoder)


def _templated(names: Sequence[str], tokenizer: Any, written: Sequence[Format]) -> Iterator[Format]:
    """Yield the formats of NAMES as the tokenizer's own template writes them, its default first."""
    if not isinstance(getattr(tokenizer, "chat_template", None), str):
        return
    settings: dict[str, Mapping[str, Any]] = {names[0]: {}}
    for name in names[1:]:
        settings[name] = NOT_THINKING if "disable" in name else THINKING
    if len(names) > 1 and _defaults_to_no_thinking(names, tokenizer):
        settings = {names[1]: {}, names[0]: THINKING}
    by_name = {made.name: made for made in written}
    for name, options in settings.items():
        like = by_name[name]
        writer = SkeletonWriter(TemplateWriter(tokenizer, options))
        yield Format(name, TEMPLATE, writer, like.reader, like.encoder)


def _defaults_to_no_thinking(names: Sequence[str], tokenizer: Any) -> bool:
    """Whether the template's default is the variant without thinking, though NAMES[0] thinks."""
    if "disable" not in names[1]:
        return False
    chat = Chat([{"role": "user", "content": "ping"}], [])
    try:
        default, off, on = (
            TemplateWriter(tokenizer, options).write(chat, prompt=True)
            for options in ({}, NOT_THINKING, THINKING)
        )
    except Exception:
        return False
    return default == off != on


def _probe(made: Format) -> None:
    """Find what MADE can be trained on, and how it ends messages with and without calls."""
    made.trains = frozenset(
        probe
        for probe in Probe
        if not (probe is Probe.REASONING and made.name in WITHOUT_REASONING)
        and _reads_back(made, probe)
    )


def _reads_back(made: Format, probe: Probe) -> bool:
    """Whether MADE writes the answer of PROBE so that it is read back as what was meant."""
    meant = probe.chat.messages[-1]
    try:
        turn = made.turn(probe.chat, len(probe.chat.messages) - 1)
        message = made.read(made.encoder.encode(turn.completion))
    except Exception as error:
        # A template may raise anything; what it raises on cannot be trained.
        log.debug("%s cannot write %s: %s", made.name, probe.value, error)
        return False
    if end := next((stop for stop in made.stops if turn.completion.endswith(stop)), None):
        made.ends.setdefault(bool(meant.get("tool_calls")), end)
    return reads_back(message, meant)
