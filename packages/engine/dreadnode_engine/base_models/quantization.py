"""Quantized weights: which formats this engine converts, and how.

MXFP4 is converted by transformers. The other formats are converted here, one tensor at a time while
it is read, so that a model never takes more memory than its converted weights and one tensor.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], "Tensor"]
"""Reads a stored tensor by its name."""

MXFP4, FP8, PACKED = "mxfp4", "fp8", "compressed-tensors"
"""Formats by the `quant_method` of their `quantization_config`."""
SCALES = (
    *("_proj_scales", "weight_scale_inv", "weight_scale"),
    *(".weight_shape", ".weight_zero_point", ".activation_scale", ".input_scale"),
)
"""Ends of the names of tensors that only convert other ones."""
_BITS = 4
_SCALE = re.compile(r".*\.(?:w\w+|\w+_proj)\.scale")
"""The scales of a DeepSeek V4: other tensors are named `scale` too."""
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The values of a 4-bit float; the highest bit is the sign (OCP Microscaling, 2023)."""
_PER_INT32 = 32 // _BITS


def settings_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how the weights of a model with CONFIG are quantized; None if they are not.

    A vision model has these settings at the top or with its decoder.
    """
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    found = config.get("quantization_config") or nested
    return found if isinstance(found, dict) else None


def unsupported_quantization(config: Mapping[str, Any]) -> str | None:
    """Return why the weights of a model with CONFIG cannot be loaded; None if they can."""
    settings = settings_of(config)
    if settings is None:
        return None
    method = str(settings.get("quant_method", "unknown"))
    if method == FP8:
        if _block(settings) is None:
            return (
                "its FP8 weights have no `weight_block_size` of two numbers, and this engine "
                "converts only FP8 in blocks; use a copy of the model in bfloat16"
            )
    elif method == PACKED:
        return _unsupported_packing(settings)
    elif method != MXFP4:
        return (
            f"its weights are quantized ({method}), and this engine converts only {MXFP4}, {FP8} "
            f"in blocks and {PACKED} with 4-bit integers; use a copy of the model in bfloat16"
        )
    return None


def _unsupported_packing(settings: Mapping[str, Any]) -> str | None:
    """Return why weights of compressed-tensors with SETTINGS cannot be loaded; None if they can."""
    groups = settings.get("config_groups")
    kinds = [group.get("weights") or {} for group in groups.values()] if groups else []
    wanted = {"num_bits": _BITS, "type": "int", "strategy": "group", "symmetric": True}
    wanted |= {"actorder": None}
    packed = settings.get("format") == "pack-quantized" and settings.get("quant_method") == PACKED
    known = all({name: kind.get(name) for name in wanted} == wanted for kind in kinds)
    if packed and kinds and known and all(int(kind.get("group_size") or 0) > 0 for kind in kinds):
        return None
    return (
        "its weights are stored by compressed-tensors in another form than symmetric 4-bit "
        "integers in groups (`pack-quantized`), which this engine does not convert; use a copy of "
        "the model in bfloat16"
    )


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    size = settings.get("weight_block_size")
    if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return None


def converted_name(name: str) -> str | None:
    """Return the name of the weight that the stored tensor NAME becomes; None for a scale."""
    if name.endswith(SCALES) or _SCALE.fullmatch(name):
        return None
    return name.removesuffix("_packed") if name.endswith(".weight_packed") else name


def weights_per_number(name: str, dtype: str) -> int:
    """Return how many weights one number of the stored tensor NAME, of DTYPE, becomes."""
    if converted_name(name) is None:
        return 0
    if name.endswith(".weight_packed"):
        return _PER_INT32
    # The file format has no 4-bit floats: two of them are one signed byte.
    return 2 if name.endswith("_proj_blocks") or dtype == "I8" else 1


def convert(name: str, settings: Mapping[str, Any], stored: frozenset[str], read: Read) -> "Tensor":
    """Return the weight that the stored tensor NAME becomes: float32 if it is quantized.

    Args:
        name: of the stored tensor.
        settings: how the model is quantized.
        stored: the names of all tensors.
        read: reads them.
    """
    if name.endswith(".weight_packed"):
        prefix = name.removesuffix("_packed")
        return unpack_int4(read(name), read(f"{prefix}_scale"), read(f"{prefix}_shape"))
    block = _block(settings)
    scales = (f"{name}_scale_inv", f"{name.removesuffix('weight')}scale")
    scale = next((each for each in scales if each in stored and each != name), None)
    if block is not None and scale is not None:
        weight = read(name)
        # DeepSeek V4 stores experts in 4 bits, whatever the block of other weights.
        packed = not weight.dtype.is_floating_point
        return from_fp4(weight, read(scale)) if packed else from_blocks(weight, read(scale), block)
    if f"{name}_scale" in stored:
        return from_groups(read(name), read(f"{name}_scale"))
    return read(name)


def from_groups(weight: "Tensor", scale: "Tensor") -> "Tensor":
    """Return the float32 weights that MXFP8 stands for: groups of a row share one SCALE.

    A scale is a power of two, stored as its exponent alone (OCP Microscaling, 2023).
    """
    import torch

    if weight.dtype != torch.float8_e4m3fn or weight.shape[-1] % scale.shape[-1]:
        raise ValueError(f"{tuple(scale.shape)} scales do not fit {weight.dtype} weights")
    size = weight.shape[-1] // scale.shape[-1]
    return weight.float().mul_(_powers(scale).repeat_interleave(size, dim=-1))


def from_fp4(packed: "Tensor", scale: "Tensor") -> "Tensor":
    """Return the float32 matrix that 4-bit floats stand for: groups of a row share one SCALE.

    Two numbers are PACKED in a byte; the lower bits are the first one.
    """
    import torch

    values = torch.tensor([*_FP4, *(-value for value in _FP4)], device=packed.device)
    octets = packed.view(torch.uint8)
    pairs = torch.stack([octets & 15, octets >> 4], dim=-1)
    weight = values[pairs.flatten(-2).long()]
    size, rest = divmod(weight.shape[1], scale.shape[1])
    if rest or len(scale) != len(weight):
        raise ValueError(f"{tuple(scale.shape)} scales do not fit {tuple(weight.shape)} weights")
    return weight.mul_(_powers(scale).repeat_interleave(size, dim=1))


def _powers(scale: "Tensor") -> "Tensor":
    """Return SCALE in float32: a byte is the exponent of a power of two."""
    import torch

    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()


def from_blocks(weight: "Tensor", scale: "Tensor", block: tuple[int, int]) -> "Tensor":
    """Return the float32 matrix that FP8 numbers and one SCALE for each BLOCK of them stand for.

    The last blocks are cut off where the matrix ends: 576 rows have five scales of 128 rows each.
    """
    rows, columns = weight.shape
    whole = _powers(scale)
    whole = whole.repeat_interleave(block[0], dim=0).repeat_interleave(block[1], dim=1)
    if whole.shape[0] < rows or whole.shape[1] < columns:
        raise ValueError(f"{tuple(scale.shape)} scales are too few for {rows} x {columns} weights")
    return weight.float().mul_(whole[:rows, :columns])


def unpack_int4(packed: "Tensor", scale: "Tensor", shape: "Tensor") -> "Tensor":
    """Return the float32 matrix of SHAPE whose 4-bit integers are PACKED, eight in an int32.

    The lowest bits are the first number, and 8 is zero. A group of columns shares one SCALE.
    """
    import torch

    rows, columns = (int(size) for size in shape)
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32, device=packed.device)
    numbers = (packed[..., None] >> shifts).bitwise_and_(15).flatten(1)[:, :columns]
    groups = scale.float()
    if numbers.shape != (rows, columns) or columns % groups.shape[1]:
        raise ValueError(f"{tuple(packed.shape)} packed numbers do not fill {rows} x {columns}")
    return (numbers - 8).float() * groups.repeat_interleave(columns // groups.shape[1], dim=1)
