"""bfloat16 on a CPU: base weights of projections, and nothing else.

Activations, adapters, optimizer, norms, softmax and logits stay float32. Only the products with the
projections of attention and MLP round their inputs and results to bfloat16, which CPUs with AMX or
AVX512-BF16 compute several times as fast. The last layer rounds its input and weights too, and its
results are float32. Embeddings and experts stay float32.
"""

import json
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dreadnode_engine.compute.adapters import PROJECTIONS

log = logging.getLogger(__name__)

FASTER = 1.2
"""How many times as fast bfloat16 must be."""
ROWS, WIDTH, ROUNDS = 256, 1024, 5
"""The product that is measured."""


class HalfLinear(nn.Linear):
    """A linear layer with bfloat16 weights, for float32 activations."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output in the data type of X."""
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return X @ WEIGHT.T + BIAS in the data type of X, computed in that of WEIGHT."""
    if x.dtype == weight.dtype:
        return linear(x, weight, bias)
    return linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def halve_projections(model: nn.Module) -> None:
    """Keep the projections of MODEL in bfloat16, and everything else in float32."""
    halved = set()
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name.rpartition(".")[2] in PROJECTIONS:
            module.__class__ = HalfLinear
            for parameter in module.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
                halved.add(parameter)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor not in halved and tensor.is_floating_point():
            tensor.data = tensor.data.float()
    # Rounded here, so that it does not matter whether a product rounds them.
    last = model.get_output_embeddings().weight  # type: ignore[operator]
    last.data = last.data.bfloat16().float()


def last_layer(layer: nn.Module, hidden: Tensor, *, mixed: bool) -> Tensor:
    """Return the output of the last LAYER of a model for HIDDEN (..., width)."""
    if mixed and hidden.numel() == hidden.shape[-1]:
        # Rounding all weights takes longer than the product of one token in float32.
        return layer(hidden.bfloat16().float())  # type: ignore[no-any-return]
    with fast_logits(mixed):
        return layer(hidden)  # type: ignore[no-any-return]


@contextmanager
def fast_logits(enabled: bool) -> Iterator[None]:
    """Let float32 products round their inputs to bfloat16; sums and results stay float32.

    The last layer is computed so: its result would lose too much in bfloat16.
    """
    if not enabled:
        yield
        return
    precision: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (it has no type)
    before = precision.fp32_precision
    precision.fp32_precision = "bf16"
    try:
        yield
    finally:
        precision.fp32_precision = before


def choose_dtype(data_dir: Path) -> str:
    """Return `bfloat16` if this CPU computes it faster than float32, else `float32`.

    The choice is kept in DATA_DIR for this CPU and version of PyTorch: runs continue with the same
    bits after a restart, whatever a second measurement would say.
    """
    path = data_dir / "dtype.json"
    machine = f"{_cpu()}, PyTorch {torch.__version__}"
    try:
        kept = json.loads(path.read_text())
        if kept["machine"] == machine and kept["dtype"] in ("bfloat16", "float32"):
            return str(kept["dtype"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    ratio = _speed_of_bfloat16() if _has_bfloat16() else 0.0
    dtype = "bfloat16" if ratio >= FASTER else "float32"
    log.info("`--dtype auto` chooses %s: bfloat16 is %.1f times as fast here", dtype, ratio)
    path.write_text(json.dumps({"machine": machine, "dtype": dtype, "bfloat16_speed": ratio}))
    return dtype


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _has_bfloat16() -> bool:
    """Whether the CPU has AMX or AVX512-BF16."""
    return any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )


def _speed_of_bfloat16() -> float:
    """Return the time of a product in float32 divided by that in bfloat16."""
    x, weight = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, WIDTH)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(ROUNDS):
        for dtype in best:
            part = weight.to(dtype)
            started = time.perf_counter()
            product(x, part, None)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
