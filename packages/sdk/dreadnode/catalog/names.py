"""What a model's name contains in any notation: its words, version, sizes and kind.

The same model is ``meta-llama/Llama-3.1-8B-Instruct`` on one host, ``llama3.1:8b-instruct-q4_K_M``,
``us.meta.llama3-1-8b-instruct-v1:0`` or ``accounts/fireworks/models/llama-v3p1-8b-instruct`` on
others. Reading each into the same parts makes them comparable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

KINDS = {
    "base": "base",
    "pt": "base",
    "pretrained": "base",
    "text": "base",
    "instruct": "instruct",
    "instruction": "instruct",
    "instant": "instruct",
    "versatile": "instruct",
    "it": "instruct",
    "chat": "instruct",
    "thinking": "thinking",
    "think": "thinking",
    "reasoning": "thinking",
    "vl": "vision",
    "vision": "vision",
}
"""Words that say what a model was trained to be."""

_PACKAGING = """
    a ai awq bf bit bits bnb by cloud cpp ct dq dwq dynamic exacto exl fast float fp free ggml gguf
    gptq half hf hub i imat int iq k l latest library lora m maas mixed ml mlx model models mxfp n
    nf nitro nvfp of onnx openai openvino original peft preview q quant quantized s safetensors
    standard the throughput turbo ud unsloth v vllm w x xl xs xxs
"""
NOISE = frozenset(_PACKAGING.split())
"""Words about packing, hosting and precision: they do not distinguish models."""

DEFAULT_TAGS = {
    "llama3.1": "8b",
    "llama3.2": "3b",
    "llama3.3": "70b",
    "qwen3": "8b",
    "qwen3.5": "9b",
    "gpt-oss": "20b",
}
"""What Ollama runs under a name without a tag."""

_PACKING = re.compile(
    r"""
    (?<![a-z0-9])(?:
        i?q\d(?:[_-](?:k|\d|[sml]|xs|xxs|nl|xl))*     # Q4_K_M, q8_0, IQ2_XXS
      | (?:fp|bf|int|nf|f|uint|w|mxfp|nvfp|exl)\d+(?:a\d+)?(?:[._]\d+)?  # fp8, bf16, int4, w8a8
      | \d+(?:\.\d+)?-?(?:bits?|bpw)                      # 4bit, 8-bit, 4.65bpw
      | v?\d+:\d+$                                       # the revision of a Bedrock id
      | (?:mp|g|gs)\d+
    )(?![a-z0-9])
    """,
    re.VERBOSE,
)
_SUFFIX = re.compile(r"\.(?:gguf|safetensors|bin|ggml)$|:peft(?::\d*)?.*$")
_LOCATION = re.compile(r"^[a-z]+://|/(?:tree|blob|resolve|versions)/.*$|/+$")
_TOKEN = re.compile(
    r"""
    (?P<active>(?<![a-z])a\d+(?:[.p_]\d+)?b(?![a-z0-9]))
  | (?P<size>\d+(?:[.p_]\d+)?\s?(?:b|t)(?:illion)?(?![a-z0-9]))
  | (?P<date>\d{4,8})
  | (?P<version>\d+(?:[._p-]\d(?![\da-z]))?)
  | (?P<word>[^\W\d_]+)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a model's name.

    Attributes:
        text: The last part of the name in lower case, without packing.
        words: The words that distinguish it, without kinds and noise.
        owner: The words before the last slash or of the host.
        version: The number after the family, such as ``3.1``, or an empty string.
        size: Parameters as the name says, in billions; for a mixture of experts in total.
        active: Active parameters, in billions.
        kinds: What it was trained to be, in the words of ``KINDS``' values.
        dates: Snapshot numbers, such as ``2507``.
        tagged: Whether the size stands in an Ollama tag, after a colon.
    """

    text: str
    words: tuple[str, ...]
    owner: tuple[str, ...]
    version: str
    size: float | None
    active: float | None
    kinds: frozenset[str]
    dates: frozenset[str]
    tagged: bool


def readings(name: str) -> tuple[Name, ...]:
    """Read NAME in each way it can be read, the likeliest first.

    A number after a hyphen may continue the version, or be a size that lost its ``b``:
    ``Qwen3-8`` is Qwen 3.8 or Qwen 3 of 8B.
    """
    untagged = name.strip().lower().removesuffix(":latest").rpartition("/")
    if untagged[0] in ("", "ollama", "ollama_chat") and untagged[2] in DEFAULT_TAGS:
        name = f"{untagged[2]}:{DEFAULT_TAGS[untagged[2]]}"
    first = parse(name)
    major, hyphen, minor = first.version.partition("-")
    dotted = replace(first, version=f"{major}.{minor}" if hyphen else major)
    if not hyphen or first.size is not None:
        return (dotted,)
    return (replace(first, version=major, size=float(minor)), dotted)


def parse(name: str) -> Name:
    """Read NAME into its parts; a name in no known form gives a ``Name`` with few of them."""
    whole = _LOCATION.sub("", _LOCATION.sub("", name.strip().lower()))
    owner, _, last = _SUFFIX.sub("", whole).rpartition("/")
    last = max(last.split("@"), key=len)  # `name@version`, or `group@name`
    last = _PACKING.sub(" ", last)
    words: list[str] = []
    kinds: set[str] = set()
    dates: set[str] = set()
    found: dict[str, str] = {}
    for match in _TOKEN.finditer(last):
        group, token = str(match.lastgroup), match.group()
        if group == "date":
            dates.add(token)
        elif group != "word":
            found.setdefault(group, token)
        elif token in KINDS:
            kinds.add(KINDS[token])
        elif token not in NOISE:
            words.append(token)
    return Name(
        text=re.sub(r"(?!(?<=\d)\.\d)[\W_]+", "-", last).strip("-"),
        words=tuple(words),
        owner=tuple(re.findall(r"[^\W\d_]+", owner)),
        version=re.sub(r"[_p]", ".", found.get("version", "")),
        size=_billions(found.get("size")),
        active=_billions(found.get("active")),
        kinds=frozenset(kinds),
        dates=frozenset(dates),
        tagged=bool(re.search(r":\d", last)),
    )


def _billions(token: str | None) -> float | None:
    if token is None:
        return None
    number = float(re.sub(r"[p_]", ".", token.strip("abtilon ")))
    return number * 1000 if "t" in token else number
