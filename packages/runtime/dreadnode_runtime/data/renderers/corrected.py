"""Our renderers, registered beside tinker-cookbook's, where those leave their model's format.

Each is registered as `dreadnode/NAME`, NAME being that of the renderer that it corrects.
"""

from collections.abc import Callable
from typing import Any

from tinker_cookbook.renderers import Renderer, register_renderer

from dreadnode_runtime.data.renderers.deepseek import DeepSeekV3, DeepSeekV3Thinking
from dreadnode_runtime.data.renderers.gpt_oss import GptOss
from dreadnode_runtime.data.renderers.kimi import KimiK26, KimiK26DisableThinking
from dreadnode_runtime.data.renderers.llama import Llama3
from dreadnode_runtime.data.renderers.nemotron import (
    Nemotron,
    NemotronDisableThinking,
    NemotronUltra,
    NemotronUltraDisableThinking,
)
from dreadnode_runtime.data.renderers.qwen3 import Qwen3, Qwen3DisableThinking, Qwen3Instruct
from dreadnode_runtime.data.renderers.qwen35 import (
    Qwen35,
    Qwen35DisableThinking,
    Qwen36,
    Qwen36DisableThinking,
    Qwen38,
    Qwen38DisableThinking,
)

TEXT_ONLY: dict[str, Callable[..., Renderer]] = {
    "deepseekv3": DeepSeekV3,
    "deepseekv3_thinking": DeepSeekV3Thinking,
    "gpt_oss_medium_reasoning": GptOss,
    "llama3": Llama3,
    "nemotron3": Nemotron,
    "nemotron3_disable_thinking": NemotronDisableThinking,
    "qwen3": Qwen3,
    "qwen3_disable_thinking": Qwen3DisableThinking,
    "qwen3_instruct": Qwen3Instruct,
}
WITH_IMAGES: dict[str, Callable[..., Renderer]] = {
    "kimi_k26": KimiK26,
    "kimi_k26_disable_thinking": KimiK26DisableThinking,
    "nemotron3_ultra": NemotronUltra,
    "nemotron3_ultra_disable_thinking": NemotronUltraDisableThinking,
    "qwen3_5": Qwen35,
    "qwen3_5_disable_thinking": Qwen35DisableThinking,
    "qwen3_6": Qwen36,
    "qwen3_6_disable_thinking": Qwen36DisableThinking,
    "qwen3_8_disable_thinking": Qwen38DisableThinking,
    "qwen3_8_xhigh_reasoning": Qwen38,
}
CORRECTED = frozenset({*TEXT_ONLY, *WITH_IMAGES})


def registered_name(name: str) -> str:
    """Return the name under which the renderer NAME is registered: ours, where there is one."""
    return f"dreadnode/{name}" if name in CORRECTED else name


def _register(name: str, factory: Callable[[Any, Any], Renderer]) -> None:
    register_renderer(f"dreadnode/{name}", factory)


for _name, _made in TEXT_ONLY.items():
    _register(_name, lambda tokenizer, _images, made=_made: made(tokenizer))  # type: ignore[misc]
for _name, _made in WITH_IMAGES.items():
    _register(
        _name,
        lambda tokenizer, images, made=_made: made(  # type: ignore[misc]
            tokenizer, image_processor=images
        ),
    )
