"""Tiny random models, and a real engine process to drive with the real SDK."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TINKER_TELEMETRY", "0")
torch.set_num_threads(1)

MASTER = "tml-master-key-of-the-tests"
WORDS = [f"w{i}" for i in range(90)]
CHAT_TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of whole words, whose ids are those of the models below."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GATED_DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LATENT: dict[str, Any] = {
    "head_dim": 8,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
INKLING: dict[str, Any] = {
    "vocab_size": 100,
    "unpadded_vocab_size": 96,
    "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": 16,
    "sliding_window_size": 8,
    "d_rel": 4,
    "rel_extent": 12,
    "log_scaling_n_floor": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 16,
    "logits_mup_width_multiplier": 2.0,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", EXPERTS),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        "Qwen3_5ForCausalLM",
        {**GATED_DELTA, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        "Qwen3_5MoeForCausalLM",
        {
            **GATED_DELTA,
            **EXPERTS,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        LATENT,
    ),
    "deepseek_v4": (
        "DeepseekV4Config",
        "DeepseekV4ForCausalLM",
        {
            "head_dim": 16,
            "num_key_value_heads": 1,
            "q_lora_rank": 16,
            "partial_rotary_factor": 0.5,
            # A token whose embedding is zero would score all entries alike.
            "pad_token_id": None,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "sliding_window": 8,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 3,
            "o_groups": 2,
            "o_lora_rank": 8,
            "index_topk": 6,
            "index_n_heads": 32,
            "index_head_dim": 16,
            "layer_types": [
                "sliding_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
            ],
            "compress_rates": {
                "compressed_sparse_attention": 4,
                "heavily_compressed_attention": 12,
            },
            "mlp_layer_types": ["hash_moe", "moe", "moe"],
        },
    ),
    # Its text tower is a DeepSeek V3.
    "kimi_k25": ("DeepseekV3Config", "Kimi_K25ForConditionalGeneration", LATENT),
    "glm_moe_dsa": (
        "GlmMoeDsaConfig",
        "GlmMoeDsaForCausalLM",
        {
            **LATENT,
            # A token whose embedding is zero would score all positions alike.
            "pad_token_id": None,
            "index_topk": 16,
            "index_n_heads": 32,
            "index_head_dim": 16,
            "layer_types": ["indexed_attention"] * 3,
            "indexer_types": ["full", "shared", "full"],
        },
    ),
    "glm5_next": (
        "Glm5NextTextConfig",
        "Glm5NextForConditionalGeneration",
        {
            **LATENT,
            "pad_token_id": None,
            "qk_rope_head_dim": 0,
            "n_group": 1,
            "index_topk": 16,
            "index_kpool": 4,
            "index_n_heads": 32,
            "index_head_dim": 16,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 3,
            "layer_types": ["indexed_attention", "linear_attention", "indexed_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
        },
    ),
    "nemotron_h": (
        "NemotronHConfig",
        "NemotronHForCausalLM",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "chunk_size": 16,
            "time_step_min": 0.1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
        },
    ),
    "inkling": ("InklingTextConfig", "InklingForConditionalGeneration", INKLING),
    "inkling2": (
        "Inkling2TextConfig",
        "Inkling2ForConditionalGeneration",
        {
            **{name: value for name, value in INKLING.items() if name != "mlp_layer_types"},
            "n_layers_per_attn_res_block": 2,
            # Values of this size are clipped.
            "qk_l2_clip_threshold": 2.0,
            "rel_l2_clip_threshold": 1.0,
            "final_logit_softcapping": 5.0,
        },
    ),
}
"""The configuration, class and own sizes of each kind of tiny model."""
KINDS["nemotron_h_omni"] = (
    *("NemotronHConfig", "NemotronH_Omni_Reasoning_V3", KINDS["nemotron_h"][2]),
)
VISION: dict[str, Any] = {
    "vision_config": {
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "pos_emb_height": 2,
        "pos_emb_width": 2,
    },
    "projection_hidden_size": 16,
}
"""The sizes of a vision tower beside a decoder."""
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "kimi_k25": ("Kimi_K25Config", VISION),
    "glm5_next": (
        "Glm5NextConfig",
        {
            "vision_config": {
                "depth": 1,
                "num_heads": 2,
                "hidden_size": 16,
                "intermediate_size": 16,
                "out_hidden_size": 32,
                "projection_intermediate_size": 16,
            },
        },
    ),
    "nemotron_h_omni": (
        "NemotronH_Omni_Reasoning_V3_Config",
        {
            "vision_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_img_size": 32,
                "video_temporal_patch_size": 2,
            },
            "vision_hidden_size": 16,
            "projector_hidden_size": 16,
        },
    ),
    "inkling": (
        "InklingConfig",
        {
            "vision_config": {"patch_size": 4, "num_hidden_layers": 4, "hidden_size": 16},
            "audio_config": {"n_mel_bins": 2, "mel_vocab_size": 4},
        },
    ),
    "inkling2": (
        "Inkling2Config",
        {
            "vision_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "projection_hidden_dim": 16,
                "text_hidden_size": 32,
            }
        },
    ),
}
"""The configuration of a model with other towers beside its decoder, and their sizes."""


def make_model(folder: Path, kind: str, context: int) -> Path:
    """Save a random model of KIND with its tokenizer into FOLDER.

    CONTEXT is its longest sequence in tokens.
    """
    import transformers

    config_class, model_class, own = KINDS[kind]
    sizes = SIZES | own | {"max_position_embeddings": context}
    sizes["num_hidden_layers"] = len(sizes.get("layer_types", sizes.get("layers_block_type", "12")))
    config = getattr(transformers, config_class)(**sizes)
    if kind in TOWERS:
        whole, own = TOWERS[kind]
        config = getattr(transformers, whole)(
            text_config=config.to_dict(), tie_word_embeddings=False, **own
        )
    torch.manual_seed(7)
    model = getattr(transformers, model_class)(config)
    for name, weight in model.named_parameters():
        # transformers starts some weights at zero, where they would change nothing, and makes all
        # positions of a pool alike.
        if ".index_kpool_compress_" in name or (kind == "inkling2" and not weight.any()):
            torch.nn.init.normal_(weight, std=0.3)
    if kind == "deepseek_v4":
        # These start as zero, which would hide errors.
        for name, tensor in model.state_dict().items():
            if name.endswith(("sinks", "position_bias", "_hc.base")):
                torch.nn.init.normal_(tensor)
            elif name.endswith("tid2eid"):
                chosen = torch.rand(len(tensor), config.n_routed_experts).argsort(-1)
                tensor.copy_(chosen[:, : tensor.shape[1]])
    model.save_pretrained(folder)
    if kind == "kimi_k25":
        # transformers 5.23 saves the layers of the text tower under names of the vision tower.
        tower = make_model(folder / "tower", "deepseek_v3", context) / "model.safetensors"
        weights = load_file(folder / "model.safetensors").items()
        others = {name: t for name, t in weights if not name.startswith("language_model.")}
        text = {f"language_model.{name}": t for name, t in load_file(tower).items()}
        save_file(others | text, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def make_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make a directory with one tiny model of each kind, for so many tokens of context."""

    def make(context: int) -> Path:
        folder = tmp_path_factory.mktemp("models")
        for kind in ("llama", "qwen3", "qwen3_moe"):
            make_model(folder / kind, kind, context)
        return folder

    return make


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Make a tiny model of a kind, for so many tokens of context; once for all tests."""
    made: dict[tuple[str, int], Path] = {}

    def make(kind: str, context: int) -> Path:
        if (kind, context) not in made:
            folder = tmp_path_factory.mktemp("tiny") / kind
            made[kind, context] = make_model(folder, kind, context)
        return made[kind, context]

    return make


@pytest.fixture(scope="session")
def models_dir(make_models_dir: Callable[[int], Path]) -> Path:
    """A directory with one tiny model of each kind; a module may bring other ones."""
    return make_models_dir(128)


class EngineProcess:
    """`dreadnode_engine serve` as a real process."""

    def __init__(self, warm_engine: Any, data_dir: Path, models: Path, *arguments: str) -> None:
        self._warm_engine = warm_engine
        self.data_dir = data_dir
        self._models = models
        self._arguments = arguments
        self.port = 0
        self.process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "EngineProcess":
        """Start it, on the same port as before if it ran before, and wait until it answers."""
        command = ["serve"]
        command += ["--data-dir", str(self.data_dir), "--port", str(self.port), "--threads", "1"]
        command += ["--no-stand-in", "--no-hf-cache", *self._arguments]
        for kind in ("llama", "qwen3", "qwen3_moe"):
            command += ["--model", f"tiny/{kind}={self._models / kind}"]
        with (self.data_dir.parent / "engine.log").open("a") as log:
            environment = os.environ | {"DREADNODE_ENGINE_KEY": MASTER}
            self.process = self._warm_engine.start(command, environment, stderr=log.fileno())
        line = self.process.stdout.readline()
        assert line.startswith("engine ready on http://"), (
            self.data_dir.parent / "engine.log"
        ).read_text()
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self.process.terminate()
        code: int = self.process.wait(30)
        return code


@pytest.fixture
def start_engine(
    warm_engine: Any, tmp_path: Path, models_dir: Path
) -> Iterator[Callable[..., EngineProcess]]:
    """Start engines that are gone when the test is over."""
    running: list[EngineProcess] = []

    def start(*arguments: str) -> EngineProcess:
        data_dir = tmp_path / f"engine{len(running)}" / "data"
        data_dir.mkdir(parents=True)
        engine = EngineProcess(warm_engine, data_dir, models_dir, *arguments)
        running.append(engine)
        return engine.start()

    yield start
    for engine in running:
        if engine.process is not None and engine.process.poll() is None:
            engine.kill()


ROUTER = "two workers"


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> EngineProcess:
    """One engine for all tests of a module; with the parameter ROUTER, two workers as one."""
    router = getattr(request, "param", None) == ROUTER
    found: EngineProcess = request.getfixturevalue("router" if router else "single_engine")
    return found


@pytest.fixture(scope="session")
def router(
    warm_engine: Any, tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[EngineProcess]:
    """One engine with two workers for the whole session."""
    data_dir = tmp_path_factory.mktemp("router") / "data"
    data_dir.mkdir()
    arguments = ("--workers", "2", "--snapshot-seconds", "0.05")
    process = EngineProcess(warm_engine, data_dir, models_dir, *arguments).start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()


@pytest.fixture(scope="module")
def single_engine(
    request: pytest.FixtureRequest,
    warm_engine: Any,
    tmp_path_factory: pytest.TempPathFactory,
    models_dir: Path,
) -> Iterator[EngineProcess]:
    """One engine for all tests of a module, with the ENGINE_ARGUMENTS that the module names."""
    data_dir = tmp_path_factory.mktemp("engine") / "data"
    data_dir.mkdir()
    arguments = getattr(request.module, "ENGINE_ARGUMENTS", ())
    process = EngineProcess(warm_engine, data_dir, models_dir, *arguments).start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()
