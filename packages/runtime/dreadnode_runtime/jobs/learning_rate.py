"""The learning rate that is usual for LoRA of a model."""

from tinker_cookbook.exceptions import ConfigurationError
from tinker_cookbook.hyperparam_utils import get_lr


def usual_learning_rate(model: str) -> float | None:
    """Return tinker-cookbook's learning rate for LoRA of MODEL; None where it has not measured one.

    It depends on the size of the model's layers and not on the rank.
    """
    try:
        return float(get_lr(model))
    except (NotImplementedError, ConfigurationError, OSError, ValueError):
        return None
