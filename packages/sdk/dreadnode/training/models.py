"""The catalog: every base model that Tinker serves or has served, and on what terms.

This file is the source of truth. The API holds a copy of it that ``make catalog-mirror`` writes;
``make catalog-refresh`` rewrites the table below from Tinker's published list. Facts are data and
dated: a price that was never published is ``None``, which means unknown and never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Algorithm = Literal["sft", "importance_sampling", "ppo"]
ModelType = Literal["dense", "moe"]
Status = Literal["active", "retired"]
Confidence = Literal["high", "medium", "low"]

ALGORITHMS: tuple[Algorithm, ...] = ("sft", "importance_sampling", "ppo")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModelPricing:
    """Rates in USD per million tokens; ``None`` is a rate that nobody has published."""

    prefill: float | None = None
    sample: float | None = None
    train: float | None = None
    cached_prefill: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedVariant:
    """The same model under a longer context and at a dearer price.

    Attributes:
        tinker_id: The id to train it under, ``ID:peft:TOKENS``.
        context_length: Tokens.
        pricing: Its own rates, or ``None`` when none is published.
        pricing_as_of: ISO day or month on which these rates were read.
    """

    tinker_id: str
    context_length: int
    pricing: TrainingModelPricing | None = None
    pricing_as_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModel:
    """One base model, on the terms under which Tinker serves it.

    The documented fields come first; the facts beside them follow.

    Attributes:
        tinker_id: The exact string to pass as ``--model`` or ``base_model``.
        display_name: The name for people.
        family: ``llama``, ``qwen``, … An open set: Tinker adds families.
        type: ``dense``, or ``moe`` for a mixture of experts, which is priced by active size.
        size_b: Active parameters, in billions.
        context_length: Tokens of context under ``tinker_id``.
        extended_context: Whether ``extended`` offers a longer context.
        supported_algorithms: What the model can be trained with. Tinker publishes no restriction.
        pricing: Rates in force on ``pricing_as_of``, or ``None`` when none is published.
        organization: Who made the model.
        total_size_b: All parameters, in billions; equal to ``size_b`` for a dense model.
        training_type: What the model was trained to be, in Tinker's words: ``Base``, ``Hybrid``, …
        vision: Whether it reads images; ``None`` when sources differ or are silent.
        audio: Whether it hears; ``None`` when unknown.
        tokenizer_id: Where its tokenizer comes from.
        max_lora_rank: The largest LoRA rank; ``None`` is unknown, not unlimited.
        extended: The long-context variant, if there is one.
        pricing_as_of: ISO day or month on which the rates were read.
        promo: Set when ``pricing`` holds a discount that may end: what is known of it.
        list_pricing: The rates without that discount.
        status: ``retired`` when hosted Tinker serves it no longer; a server with its weights may.
        retired_on: ISO day of its retirement.
        replacement: The ``tinker_id`` that Tinker names in its place.
        first_seen: ISO day or month of the oldest evidence that it was served.
        last_confirmed: ISO day of the newest such evidence.
        confidence: How sure the facts of this entry are.
        notes: What a reader of the figures should know.
    """

    tinker_id: str
    display_name: str
    family: str
    type: ModelType
    size_b: float
    context_length: int
    extended_context: bool = False
    supported_algorithms: tuple[Algorithm, ...] = ALGORITHMS
    pricing: TrainingModelPricing | None = None

    organization: str
    total_size_b: float
    training_type: str
    vision: bool | None = None
    audio: bool | None = None
    tokenizer_id: str | None = None
    max_lora_rank: int | None = None
    extended: ExtendedVariant | None = None
    pricing_as_of: str | None = None
    promo: str | None = None
    list_pricing: TrainingModelPricing | None = None
    status: Status = "active"
    retired_on: str | None = None
    replacement: str | None = None
    first_seen: str | None = None
    last_confirmed: str | None = None
    confidence: Confidence = "high"
    notes: tuple[str, ...] = ()


class CatalogQueryError(ValueError):
    """A search that cannot be meant.

    Attributes:
        field: The name of the argument at fault.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of the models that match.

    Attributes:
        matches: All matches, in order.
        limit: The page's size that was asked for.
        offset: How many matches come before this page.
    """

    matches: tuple[TrainingModel, ...]
    limit: int
    offset: int

    @property
    def models(self) -> tuple[TrainingModel, ...]:
        """The entries of this page."""
        return self.matches[self.offset : self.offset + self.limit]

    @property
    def total(self) -> int:
        """How many entries match in all."""
        return len(self.matches)

    @property
    def facets(self) -> Mapping[str, Mapping[str, int]]:
        """For each facet, how many of all matches have each value."""
        from dreadnode.training.search import count_facets

        return count_facets(self.matches)

    def __iter__(self) -> Iterator[TrainingModel]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


CATALOG_AS_OF = "2026-11-22"
"""ISO day on which the sources of this table were last read."""

TINKER_MODELS: tuple[TrainingModel, ...] = (
    TrainingModel(
        tinker_id="thinkingmachines/Inkling",
        display_name="Inkling",
        family="inkling",
        type="moe",
        size_b=41.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=1.87, sample=4.68, train=5.61, cached_prefill=0.374),
        organization="thinkingmachines",
        total_size_b=975.0,
        training_type="Hybrid + Audio + Vision",
        vision=True,
        audio=True,
        tokenizer_id="tml-renderers:O200kBaseChatTokenizer",
        extended=ExtendedVariant(
            tinker_id="thinkingmachines/Inkling:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(
                prefill=3.74,
                sample=9.36,
                train=11.23,
                cached_prefill=0.748,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-10-07",
        promo="50 % off for a limited time, which can end without notice",
        list_pricing=TrainingModelPricing(prefill=3.74, sample=9.36, train=11.22),
        first_seen="2026-07-15",
        last_confirmed="2026-10-07",
        notes=(
            "Stated 975B vs 952B stored in the HF repository.",
            "Extended train price quoted as 11.22 or 11.23 (rounding).",
            (
                "Also served sampling-only (serverless beta) as "
                "thinkingmachines/Inkling:peft:262144:sampling-nvfp4 at $1.00 / $0.17 cached / "
                "$4.05."
            ),
        ),
    ),
    TrainingModel(
        tinker_id="thinkingmachines/Inkling-Small",
        display_name="Inkling-Small",
        family="inkling",
        type="moe",
        size_b=12.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=0.58, sample=1.44, train=1.73, cached_prefill=0.116),
        organization="thinkingmachines",
        total_size_b=276.0,
        training_type="Hybrid + Audio + Vision",
        vision=True,
        audio=True,
        tokenizer_id="tml-renderers:O200kBaseChatTokenizer",
        max_lora_rank=64,
        extended=ExtendedVariant(
            tinker_id="thinkingmachines/Inkling-Small:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(
                prefill=1.16,
                sample=2.89,
                train=3.47,
                cached_prefill=0.232,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09",
        promo="50 % off for a limited time, which can end without notice",
        list_pricing=TrainingModelPricing(prefill=1.16, sample=2.88, train=3.46),
        first_seen="2026-07-30",
        last_confirmed="2026-10-07",
        notes=(
            "Rank 128 rejected by the service 2026-07-30 (third-party test).",
            "Succeeded by Inkling-2-Small (2026-11): watch for retirement.",
            (
                "Also sampling-only (serverless beta) as "
                "thinkingmachines/Inkling-Small:peft:262144:sampling-nvfp4 at $0.30 / $0.06 cached "
                "/ $1.20."
            ),
        ),
    ),
    TrainingModel(
        tinker_id="thinkingmachines/Inkling-2-Small",
        display_name="Inkling-2-Small",
        family="inkling",
        type="moe",
        size_b=17.0,
        context_length=65536,
        extended_context=True,
        organization="thinkingmachines",
        total_size_b=594.0,
        training_type="Hybrid",
        vision=True,
        audio=False,
        tokenizer_id="tml-renderers:H200kBaseChatTokenizer",
        extended=ExtendedVariant(
            tinker_id="thinkingmachines/Inkling-2-Small:peft:262144",
            context_length=262144,
        ),
        first_seen="2026-11-05",
        last_confirmed="2026-11-06",
        confidence="medium",
        notes=(
            "No price found: added after the last page read (2026-10-07).",
            (
                "The official type label on the page was not seen; 'Hybrid' is the cookbook's "
                "wording, vision from is_vl, audio from is_audio_in=False."
            ),
            "First seen 2026-11-05/06.",
        ),
    ),
    TrainingModel(
        tinker_id="nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        display_name="Nemotron-3-Nano-30B-A3B",
        family="nemotron",
        type="moe",
        size_b=3.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.195, sample=0.495, train=0.44, cached_prefill=0.039),
        organization="nvidia",
        total_size_b=30.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        pricing_as_of="2026-09",
        promo=(
            "Doubtful: sources of August and September 2026 disagree whether the 50 % discount "
            "still holds"
        ),
        list_pricing=TrainingModelPricing(prefill=0.39, sample=0.99, train=0.88),
        first_seen="2026-03-18",
        last_confirmed="2026-10-07",
        confidence="medium",
        notes=("Price doubtful by a factor of two: re-check on the live page.",),
    ),
    TrainingModel(
        tinker_id="nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        display_name="Nemotron-3-Super-120B-A12B",
        family="nemotron",
        type="moe",
        size_b=12.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=0.57, sample=1.44, train=1.276, cached_prefill=0.114),
        organization="nvidia",
        total_size_b=120.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        extended=ExtendedVariant(
            tinker_id="nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(
                prefill=0.76,
                sample=1.92,
                train=2.32,
                cached_prefill=0.152,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09-29",
        promo="50 % off for a limited time, which can end without notice",
        list_pricing=TrainingModelPricing(prefill=1.14, sample=2.88),
        first_seen="2026-03-18",
        last_confirmed="2026-10-07",
        notes=(
            "Struck-through list price on the page 2026-09-29: 1.14 / 2.88.",
            "Prefill and sample from the 2026-09-29 read; train from a Sept 2026 table.",
        ),
    ),
    TrainingModel(
        tinker_id="nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
        display_name="Nemotron-3-Ultra-550B-A55B",
        family="nemotron",
        type="moe",
        size_b=55.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=2.49, sample=6.225, train=5.478, cached_prefill=0.498),
        organization="nvidia",
        total_size_b=550.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
        max_lora_rank=32,
        extended=ExtendedVariant(
            tinker_id="nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(
                prefill=3.32,
                sample=8.3,
                train=9.96,
                cached_prefill=0.664,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09",
        promo="50 % off for a limited time, which can end without notice",
        list_pricing=TrainingModelPricing(prefill=4.98, sample=12.45, train=10.956),
        first_seen="2026-06",
        last_confirmed="2026-10-07",
        notes=("First seen 2026-06 (between the June table and 2026-07-02).",),
    ),
    TrainingModel(
        tinker_id="nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
        display_name="Nemotron-3.5-Lightning-30B-A3B",
        family="nemotron",
        type="moe",
        size_b=3.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=0.195, sample=0.495, train=0.44, cached_prefill=0.039),
        organization="nvidia",
        total_size_b=30.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
        extended=ExtendedVariant(
            tinker_id="nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(prefill=0.26, sample=0.66, cached_prefill=0.052),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09-19",
        promo="50 % off for a limited time, which can end without notice",
        list_pricing=TrainingModelPricing(prefill=0.39, sample=0.99, train=0.88),
        first_seen="2026-08-11",
        last_confirmed="2026-10-07",
        notes=("Extended train price not found.",),
    ),
    TrainingModel(
        tinker_id="nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16",
        display_name="Nemotron-3.5-Super-VL-120B-A12B",
        family="nemotron",
        type="moe",
        size_b=12.0,
        context_length=65536,
        extended_context=True,
        organization="nvidia",
        total_size_b=120.0,
        training_type="Hybrid",
        vision=True,
        audio=False,
        tokenizer_id="nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16",
        extended=ExtendedVariant(
            tinker_id="nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16:peft:262144",
            context_length=262144,
        ),
        first_seen="2026-10-20",
        last_confirmed="2026-11-06",
        confidence="medium",
        notes=(
            "No price found: added after the last page read (2026-10-07).",
            "Official type label not seen; cookbook comment says Hybrid (thinking), is_vl=True.",
            "First seen 2026-10-20/21 (cookbook 0.5.8).",
        ),
    ),
    TrainingModel(
        tinker_id="moonshotai/Kimi-K2.6",
        display_name="Kimi-K2.6",
        family="kimi",
        type="moe",
        size_b=32.0,
        context_length=32768,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=2.205, sample=5.49, train=4.84, cached_prefill=0.441),
        organization="moonshotai",
        total_size_b=1000.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="moonshotai/Kimi-K2.6",
        extended=ExtendedVariant(
            tinker_id="moonshotai/Kimi-K2.6:peft:131072",
            context_length=131072,
            pricing=TrainingModelPricing(
                prefill=5.15,
                sample=12.81,
                train=15.4,
                cached_prefill=1.03,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-10-06",
        first_seen="2026-04-20",
        last_confirmed="2026-10-07",
        notes=(
            (
                "Type: newest page read (2026-09-29) says 'Hybrid + Vision'; models.json of "
                "2026-07-02 and a cookbook 0.6.1 comment say Reasoning (+ Vision). Newest page "
                "kept."
            ),
            "Tokenizer needs the repository's custom TikTokenTokenizer class.",
        ),
    ),
    TrainingModel(
        tinker_id="zai-org/GLM-5.3:peft:262144",
        display_name="GLM-5.3 (256K)",
        family="glm",
        type="moe",
        size_b=40.0,
        context_length=262144,
        pricing=TrainingModelPricing(prefill=4.86, sample=12.15, train=14.58, cached_prefill=0.972),
        organization="zai-org",
        total_size_b=753.0,
        training_type="Reasoning",
        vision=False,
        audio=False,
        tokenizer_id="zai-org/GLM-5.3",
        max_lora_rank=32,
        pricing_as_of="2026-09-29",
        first_seen="2026-09-01",
        last_confirmed="2026-10-07",
        notes=(
            "Served only under the suffixed id; 256K is the default context.",
            "Parameter conflict: page 753B (HF 753.3B) vs cookbook 744B-A40B; page kept.",
            "Rank 64 rejected 2026-09-04 (third-party test).",
            "Thinking cannot be disabled (low/high/max effort).",
            "Train price from a Sept 2026 table; prefill and sample from the 2026-09-29 read.",
        ),
    ),
    TrainingModel(
        tinker_id="zai-org/GLM-5.3-Flash:peft:262144",
        display_name="GLM-5.3-Flash (256K)",
        family="glm",
        type="moe",
        size_b=18.0,
        context_length=262144,
        organization="zai-org",
        total_size_b=320.0,
        training_type="Reasoning",
        vision=False,
        audio=False,
        tokenizer_id="zai-org/GLM-5.3-Flash",
        first_seen="2026-10-20",
        last_confirmed="2026-11-06",
        confidence="medium",
        notes=(
            "No price found.",
            "Image support 'coming soon' per cookbook 0.6.1, so vision=false today.",
            "First seen 2026-10-20/21 (cookbook 0.5.8).",
        ),
    ),
    TrainingModel(
        tinker_id="deepseek-ai/DeepSeek-V3.1",
        display_name="DeepSeek-V3.1",
        family="deepseek",
        type="moe",
        size_b=37.0,
        context_length=32768,
        pricing=TrainingModelPricing(
            prefill=1.695,
            sample=4.215,
            train=3.718,
            cached_prefill=0.339,
        ),
        organization="deepseek-ai",
        total_size_b=671.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="deepseek-ai/DeepSeek-V3.1",
        pricing_as_of="2026-10-06",
        first_seen="2025-10-27",
        last_confirmed="2026-10-07",
    ),
    TrainingModel(
        tinker_id="deepseek-ai/DeepSeek-V4.1-Flash:peft:262144",
        display_name="DeepSeek-V4.1-Flash (256K)",
        family="deepseek",
        type="moe",
        size_b=16.0,
        context_length=262144,
        organization="deepseek-ai",
        total_size_b=552.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="deepseek-ai/DeepSeek-V4.1-Flash",
        first_seen="2026-10-20",
        last_confirmed="2026-11-06",
        confidence="medium",
        notes=(
            "No price found.",
            "Image support 'coming soon' per cookbook 0.6.1, so vision=false today.",
            (
                "Base model released 2026-09-10; may be the unidentified 29th entry on the page of "
                "2026-10-07 (unproven)."
            ),
            (
                "HF repository stores 763.2B; the vendor and a second host state 552B/16B; stated "
                "value kept."
            ),
            "First seen 2026-10-20/21 (cookbook 0.5.8).",
        ),
    ),
    TrainingModel(
        tinker_id="deepseek-ai/DeepSeek-V4.1-Flash-1017:peft:262144",
        display_name="DeepSeek-V4.1-Flash-1017 (256K)",
        family="deepseek",
        type="moe",
        size_b=16.0,
        context_length=262144,
        organization="deepseek-ai",
        total_size_b=552.0,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="deepseek-ai/DeepSeek-V4.1-Flash-1017",
        first_seen="2026-10-20",
        last_confirmed="2026-11-06",
        confidence="medium",
        notes=(
            "No price found.",
            "Image support 'coming soon' per cookbook 0.6.1, so vision=false today.",
            "Snapshot of 2026-10-17 judging by the name.",
            "First seen 2026-10-20/21 (cookbook 0.5.8).",
        ),
    ),
    TrainingModel(
        tinker_id="openai/gpt-oss-120b",
        display_name="GPT-OSS-120B",
        family="gpt-oss",
        type="moe",
        size_b=5.1,
        context_length=32768,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=0.33, sample=0.84, train=0.737, cached_prefill=0.066),
        organization="openai",
        total_size_b=116.8,
        training_type="Reasoning",
        vision=False,
        audio=False,
        tokenizer_id="openai/gpt-oss-120b",
        extended=ExtendedVariant(
            tinker_id="openai/gpt-oss-120b:peft:131072",
            context_length=131072,
            pricing=TrainingModelPricing(
                prefill=0.78,
                sample=1.94,
                train=2.33,
                cached_prefill=0.156,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09-29",
        first_seen="2025-10-27",
        last_confirmed="2026-10-07",
        notes=(
            "Price jump on 2026-07-17 was larger than for other models (0.18/0.44/0.52 before).",
            "Some third-party pages still quote the old 128K price 0.63/1.54/1.82.",
            "First seen 2025-10-27 or earlier.",
        ),
    ),
    TrainingModel(
        tinker_id="openai/gpt-oss-20b",
        display_name="GPT-OSS-20B",
        family="gpt-oss",
        type="moe",
        size_b=3.6,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.18, sample=0.45, train=0.396, cached_prefill=0.036),
        organization="openai",
        total_size_b=20.9,
        training_type="Reasoning",
        vision=False,
        audio=False,
        tokenizer_id="openai/gpt-oss-20b",
        pricing_as_of="2026-09-29",
        first_seen="2025-10-27",
        last_confirmed="2026-10-07",
        notes=("First seen 2025-10-27 or earlier.",),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.8-27B",
        display_name="Qwen3.8-27B",
        family="qwen",
        type="dense",
        size_b=27.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=1.86, sample=5.595, train=4.103, cached_prefill=0.372),
        organization="Qwen",
        total_size_b=27.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.8-27B",
        extended=ExtendedVariant(
            tinker_id="Qwen/Qwen3.8-27B:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(
                prefill=2.48,
                sample=7.46,
                train=7.46,
                cached_prefill=0.496,
            ),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-09-29",
        first_seen="2026-08-19",
        last_confirmed="2026-10-07",
        notes=(
            (
                "Extended id comes from Sept 2026 price tables; the cookbook's context table lists "
                "only the 64K id."
            ),
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.6-35B-A3B",
        display_name="Qwen3.6-35B-A3B",
        family="qwen",
        type="moe",
        size_b=3.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=0.54, sample=1.335, train=1.177, cached_prefill=0.108),
        organization="Qwen",
        total_size_b=35.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.6-35B-A3B",
        extended=ExtendedVariant(
            tinker_id="Qwen/Qwen3.6-35B-A3B:peft:262144",
            context_length=262144,
        ),
        pricing_as_of="2026-10-06",
        first_seen="2026-04-20",
        last_confirmed="2026-10-07",
        notes=(
            (
                "Extended id Qwen/Qwen3.6-35B-A3B:peft:262144 appears only in an official recipe "
                "(rl_numerics_check, cookbook >= 0.5.8); absent from Sept price lists; its price is"
                " unknown. Medium confidence for the variant."
            ),
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-397B-A17B",
        display_name="Qwen3.5-397B-A17B",
        family="qwen",
        type="moe",
        size_b=17.0,
        context_length=65536,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=3.0, sample=7.5, train=6.6, cached_prefill=0.6),
        organization="Qwen",
        total_size_b=397.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-397B-A17B",
        extended=ExtendedVariant(
            tinker_id="Qwen/Qwen3.5-397B-A17B:peft:262144",
            context_length=262144,
            pricing=TrainingModelPricing(prefill=4.0, sample=10.0, train=12.0, cached_prefill=0.8),
            pricing_as_of="2026-09",
        ),
        pricing_as_of="2026-10-06",
        first_seen="2026-03-06",
        last_confirmed="2026-10-07",
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-35B-A3B-Base",
        display_name="Qwen3.5-35B-A3B-Base",
        family="qwen",
        type="moe",
        size_b=3.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.54, sample=1.335, train=1.177, cached_prefill=0.108),
        organization="Qwen",
        total_size_b=35.0,
        training_type="Base",
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-35B-A3B-Base",
        pricing_as_of="2026-09",
        first_seen="2026-05-16",
        last_confirmed="2026-10-07",
        notes=(
            "Vision: page type says only 'Base'; cookbook flags is_vl=True. Left null.",
            "First seen 2026-05-16/19.",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-9B",
        display_name="Qwen3.5-9B",
        family="qwen",
        type="dense",
        size_b=9.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.66, sample=1.995, train=1.463, cached_prefill=0.132),
        organization="Qwen",
        total_size_b=9.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-9B",
        pricing_as_of="2026-10-06",
        first_seen="2026-05-19",
        last_confirmed="2026-10-07",
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-9B-Base",
        display_name="Qwen3.5-9B-Base",
        family="qwen",
        type="dense",
        size_b=9.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.66, sample=1.995, train=1.463, cached_prefill=0.132),
        organization="Qwen",
        total_size_b=9.0,
        training_type="Base",
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-9B-Base",
        pricing_as_of="2026-09-30",
        first_seen="2026-05-19",
        last_confirmed="2026-10-07",
        notes=("Vision: page type says only 'Base'; cookbook flags is_vl=True. Left null.",),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-4B",
        display_name="Qwen3.5-4B",
        family="qwen",
        type="dense",
        size_b=4.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.33, sample=1.005, train=0.737, cached_prefill=0.066),
        organization="Qwen",
        total_size_b=4.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-4B",
        pricing_as_of="2026-10-06",
        first_seen="2026-03-06",
        last_confirmed="2026-10-07",
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-8B",
        display_name="Qwen3-8B",
        family="qwen",
        type="dense",
        size_b=8.2,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.195, sample=0.6, train=0.44, cached_prefill=0.039),
        organization="Qwen",
        total_size_b=8.2,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-8B",
        pricing_as_of="2026-10-07",
        first_seen="2025-09-30",
        last_confirmed="2026-10-07",
        notes=("First seen 2025-09-30 (cookbook), 2025-12-14 (docs).",),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.2-1B",
        display_name="Llama-3.2-1B",
        family="llama",
        type="dense",
        size_b=1.23,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.03, sample=0.09, train=0.09),
        organization="meta-llama",
        total_size_b=1.23,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-9B-Base",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.2-3B",
        display_name="Llama-3.2-3B",
        family="llama",
        type="dense",
        size_b=3.21,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.06, sample=0.18, train=0.18),
        organization="meta-llama",
        total_size_b=3.21,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-9B-Base",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            (
                "Still served after its official retirement date in live capability dumps: "
                "2026-08-06. The list is per organization."
            ),
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.1-8B",
        display_name="Llama-3.1-8B",
        family="llama",
        type="dense",
        size_b=8.03,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.13, sample=0.4, train=0.4),
        organization="meta-llama",
        total_size_b=8.03,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-9B-Base",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.1-8B-Instruct",
        display_name="Llama-3.1-8B-Instruct",
        family="llama",
        type="dense",
        size_b=8.03,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.13, sample=0.4, train=0.4),
        organization="meta-llama",
        total_size_b=8.03,
        training_type="Instruction",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-9B",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.1-70B",
        display_name="Llama-3.1-70B",
        family="llama",
        type="dense",
        size_b=70.6,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=1.05, sample=3.16, train=3.16),
        organization="meta-llama",
        total_size_b=70.6,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            "Replacement not confirmed.",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="meta-llama/Llama-3.3-70B-Instruct",
        display_name="Llama-3.3-70B-Instruct",
        family="llama",
        type="dense",
        size_b=70.6,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=1.05, sample=3.16, train=3.16),
        organization="meta-llama",
        total_size_b=70.6,
        training_type="Instruction",
        vision=False,
        audio=False,
        tokenizer_id="thinkingmachineslabinc/meta-llama-3-instruct-tokenizer",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        first_seen="2025-10-07",
        last_confirmed="2026-07-02",
        notes=(
            "Tokenizer is the lab's ungated substitute for the Llama 3 tokenizer.",
            "A lone third-party source quotes 0.40/0.90/1.10; rejected against the page copy.",
            "First seen 2025-10-07 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-4B-Instruct-2507",
        display_name="Qwen3-4B-Instruct-2507",
        family="qwen",
        type="dense",
        size_b=4.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.07, sample=0.22, train=0.22),
        organization="Qwen",
        total_size_b=4.0,
        training_type="Instruction",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-4B-Instruct-2507",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-4B",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=("First seen 2025-09-30 (cookbook).",),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-8B-Base",
        display_name="Qwen3-8B-Base",
        family="qwen",
        type="dense",
        size_b=8.2,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.13, sample=0.4, train=0.4),
        organization="Qwen",
        total_size_b=8.2,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-8B-Base",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=("Replacement not confirmed.", "First seen 2025-09-30 (cookbook)."),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-32B",
        display_name="Qwen3-32B",
        family="qwen",
        type="dense",
        size_b=32.8,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.49, sample=1.47, train=1.47),
        organization="Qwen",
        total_size_b=32.8,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-32B",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            "Replacement not confirmed (Qwen3.6-27B likely).",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-30B-A3B",
        display_name="Qwen3-30B-A3B",
        family="qwen",
        type="moe",
        size_b=3.3,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.12, sample=0.3, train=0.36),
        organization="Qwen",
        total_size_b=30.5,
        training_type="Hybrid",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-30B-A3B",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.6-35B-A3B",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            (
                "Still served after its official retirement date in live capability dumps: "
                "2026-08-06. The list is per organization."
            ),
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-30B-A3B-Base",
        display_name="Qwen3-30B-A3B-Base",
        family="qwen",
        type="moe",
        size_b=3.3,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.12, sample=0.3, train=0.36),
        organization="Qwen",
        total_size_b=30.5,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-30B-A3B-Base",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=("Replacement not confirmed.", "First seen 2025-09-30 (cookbook)."),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-30B-A3B-Instruct-2507",
        display_name="Qwen3-30B-A3B-Instruct-2507",
        family="qwen",
        type="moe",
        size_b=3.3,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.12, sample=0.3, train=0.36),
        organization="Qwen",
        total_size_b=30.5,
        training_type="Instruction",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-30B-A3B-Instruct-2507",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.6-35B-A3B",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            (
                "Still served after its official retirement date in live capability dumps: "
                "2026-08-06. The list is per organization."
            ),
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-235B-A22B-Instruct-2507",
        display_name="Qwen3-235B-A22B-Instruct-2507",
        family="qwen",
        type="moe",
        size_b=22.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.68, sample=1.7, train=2.04),
        organization="Qwen",
        total_size_b=235.0,
        training_type="Instruction",
        vision=False,
        audio=False,
        tokenizer_id="Qwen/Qwen3-235B-A22B-Instruct-2507",
        max_lora_rank=32,
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-397B-A17B",
        first_seen="2025-09-30",
        last_confirmed="2026-07-02",
        notes=(
            (
                "Still served after its official retirement date in live capability dumps: "
                "2026-08-06 and 2026-09-01 (tinker-feedback #145). The list is per organization."
            ),
            "Rank 32 limit from cookbook issue #9 (2025-10-03).",
            "First seen 2025-09-30 (cookbook).",
        ),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-VL-30B-A3B-Instruct",
        display_name="Qwen3-VL-30B-A3B-Instruct",
        family="qwen",
        type="moe",
        size_b=3.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.18, sample=0.44, train=0.53),
        organization="Qwen",
        total_size_b=30.0,
        training_type="Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3-VL-30B-A3B-Instruct",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.6-35B-A3B",
        first_seen="2025-12-14",
        last_confirmed="2026-07-02",
        notes=("First seen 2025-12-14 (docs).",),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3-VL-235B-A22B-Instruct",
        display_name="Qwen3-VL-235B-A22B-Instruct",
        family="qwen",
        type="moe",
        size_b=22.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=1.02, sample=2.56, train=3.07),
        organization="Qwen",
        total_size_b=235.0,
        training_type="Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3-VL-235B-A22B-Instruct",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.5-397B-A17B",
        first_seen="2025-12-14",
        last_confirmed="2026-07-02",
        notes=("First seen 2025-12-14 (docs).",),
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-27B",
        display_name="Qwen3.5-27B",
        family="qwen",
        type="dense",
        size_b=27.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=1.24, sample=3.73, train=3.73),
        organization="Qwen",
        total_size_b=27.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-27B",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.6-27B",
        first_seen="2026-03-06",
        last_confirmed="2026-07-02",
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.5-35B-A3B",
        display_name="Qwen3.5-35B-A3B",
        family="qwen",
        type="moe",
        size_b=3.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=0.36, sample=0.89, train=1.07),
        organization="Qwen",
        total_size_b=35.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.5-35B-A3B",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="Qwen/Qwen3.6-35B-A3B",
        first_seen="2026-03-06",
        last_confirmed="2026-07-02",
    ),
    TrainingModel(
        tinker_id="Qwen/Qwen3.6-27B",
        display_name="Qwen3.6-27B",
        family="qwen",
        type="dense",
        size_b=27.0,
        context_length=65536,
        pricing=TrainingModelPricing(prefill=1.86, sample=5.595, train=4.103, cached_prefill=0.372),
        organization="Qwen",
        total_size_b=27.0,
        training_type="Hybrid + Vision",
        vision=True,
        audio=False,
        tokenizer_id="Qwen/Qwen3.6-27B",
        pricing_as_of="2026-07-17",
        status="retired",
        retired_on="2026-09-02",
        replacement="Qwen/Qwen3.8-27B",
        first_seen="2026-04-23",
        last_confirmed="2026-08-19",
        notes=(
            "Announced 2026-08-19 (14 days' notice).",
            "Still in the cookbook 0.6.1 context table: that table is no proof of availability.",
        ),
    ),
    TrainingModel(
        tinker_id="deepseek-ai/DeepSeek-V3.1-Base",
        display_name="DeepSeek-V3.1-Base",
        family="deepseek",
        type="moe",
        size_b=37.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=1.13, sample=2.81, train=3.38),
        organization="deepseek-ai",
        total_size_b=671.0,
        training_type="Base",
        vision=False,
        audio=False,
        tokenizer_id="deepseek-ai/DeepSeek-V3.1-Base",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        first_seen="2025-10-27",
        last_confirmed="2026-07-02",
        notes=("Replacement not confirmed.",),
    ),
    TrainingModel(
        tinker_id="moonshotai/Kimi-K2-Thinking",
        display_name="Kimi-K2-Thinking",
        family="kimi",
        type="moe",
        size_b=32.0,
        context_length=32768,
        pricing=TrainingModelPricing(prefill=0.98, sample=2.44, train=2.93),
        organization="moonshotai",
        total_size_b=1000.0,
        training_type="Reasoning",
        vision=False,
        audio=False,
        tokenizer_id="moonshotai/Kimi-K2-Thinking",
        pricing_as_of="2026-06",
        status="retired",
        retired_on="2026-06-12",
        replacement="moonshotai/Kimi-K2.6",
        first_seen="2025-12-11",
        last_confirmed="2026-07-02",
        notes=("First seen 2025-12-11/14.",),
    ),
    TrainingModel(
        tinker_id="moonshotai/Kimi-K2.5",
        display_name="Kimi-K2.5",
        family="kimi",
        type="moe",
        size_b=32.0,
        context_length=32768,
        extended_context=True,
        pricing=TrainingModelPricing(prefill=1.47, sample=3.66, train=4.4),
        organization="moonshotai",
        total_size_b=1000.0,
        training_type="Reasoning + Vision",
        vision=True,
        audio=False,
        tokenizer_id="moonshotai/Kimi-K2.5",
        extended=ExtendedVariant(
            tinker_id="moonshotai/Kimi-K2.5:peft:131072",
            context_length=131072,
            pricing=TrainingModelPricing(prefill=5.15, sample=12.81, train=15.4),
            pricing_as_of="2026-07-02",
        ),
        pricing_as_of="2026-07-02",
        status="retired",
        retired_on="2026-07-12",
        replacement="moonshotai/Kimi-K2.6",
        first_seen="2026-02-07",
        last_confirmed="2026-07-25",
        notes=(
            "Retirement was first announced for 2026-06-12, then moved to 2026-07-12.",
            "First seen 2026-02-07/17.",
        ),
    ),
)


def as_extended(model: TrainingModel) -> TrainingModel | None:
    """Return MODEL on the terms of its extended variant, or ``None`` when it has none."""
    variant = model.extended
    if variant is None:
        return None
    return replace(
        model,
        tinker_id=variant.tinker_id,
        display_name=f"{model.display_name} ({variant.context_length // 1024}K)",
        context_length=variant.context_length,
        extended_context=False,
        extended=None,
        pricing=variant.pricing,
        pricing_as_of=variant.pricing_as_of,
        promo=None,
        list_pricing=None,
    )


_SERVED = {model.tinker_id: model for model in TINKER_MODELS}
_SERVED |= {model.tinker_id: model for model in map(as_extended, TINKER_MODELS) if model}


def get_training_model(tinker_id: str) -> TrainingModel | None:
    """Return the entry that TINKER_ID names exactly, or ``None``.

    The id of an extended variant (``ID:peft:TOKENS``) gives the entry on that variant's own terms:
    its id, context and prices.
    """
    return _SERVED.get(tinker_id)


def search_training_models(
    query: str | None = None,
    *,
    family: str | None = None,
    algorithm: str | None = None,
    min_size_b: float | None = None,
    max_size_b: float | None = None,
    limit: int = 20,
    offset: int = 0,
    type: str | None = None,  # noqa: A002 (the documented name of the field)
    status: str | None = None,
    min_context: int | None = None,
    vision: bool | None = None,
    max_prefill: float | None = None,
    max_cached_prefill: float | None = None,
    max_sample: float | None = None,
    max_train: float | None = None,
    sort: str | None = None,
    models: Sequence[TrainingModel] = TINKER_MODELS,
) -> SearchResult:
    """Return the models that match every filter given, active ones first.

    Args:
        query: Words that must all occur in the id or the display name, in any case.
        family: Exactly this family, in any case; one that does not exist matches nothing.
        algorithm: One of ``ALGORITHMS``, which the model must support.
        min_size_b: Least active size, in billions.
        max_size_b: Greatest active size, in billions.
        limit: Page size, 1 to 100.
        offset: How many matches to skip.
        type: ``dense`` or ``moe``.
        status: ``active`` or ``retired``.
        min_context: Least ``context_length``, in tokens.
        vision: Whether it reads images. A model of which that is unknown matches neither answer.
        max_prefill: Ceiling of a rate, USD per million tokens; an unknown rate is above it.
        max_cached_prefill: The same.
        max_sample: The same.
        max_train: The same.
        sort: A numeric field to sort by, upwards; with a leading ``-`` downwards. Unknown values
            come last either way.
        models: The entries to search.

    Raises:
        CatalogQueryError: When a value cannot be meant; it names the argument.
    """
    from dreadnode.training.search import Query, run

    asked = Query(
        query=query,
        family=family,
        algorithm=algorithm,
        min_size_b=min_size_b,
        max_size_b=max_size_b,
        limit=limit,
        offset=offset,
        type=type,
        status=status,
        min_context=min_context,
        vision=vision,
        max_prefill=max_prefill,
        max_cached_prefill=max_cached_prefill,
        max_sample=max_sample,
        max_train=max_train,
        sort=sort,
    )
    return run(asked, models)


def suggest_training_models(name: str, limit: int = 3) -> list[TrainingModel]:
    """Return what NAME most likely meant, best first; nothing when no model resembles it.

    NAME may be a misspelt id, or another host's name for the model: an Ollama tag, a Bedrock id, an
    OpenRouter slug, a quantised or re-uploaded copy, a marketing name. At most LIMIT entries.
    """
    from dreadnode.training.suggest import catalog_index

    return catalog_index().closest(name, limit)
