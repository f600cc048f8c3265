"""The state of one training run, and how it goes to disk and comes back."""

import math
import os
from collections.abc import Generator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tinker.types import AdamParams
from torch import Tensor, nn

from dreadnode_engine.compute.adapters import LoraShape, Wrapped
from dreadnode_engine.compute.base_models import LoadedBase
from dreadnode_engine.compute.network import Network
from dreadnode_engine.compute.training import Job, gradients_are_finite, run_job
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.http.protobuf import Logprobs

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """One run in memory. Every method leaves it untouched when it raises."""

    def __init__(self, base: LoadedBase, shape: LoraShape, tensors: Mapping[str, Tensor]) -> None:
        self.base = base
        self.shape = shape
        self.wrapper: Wrapped
        self.network: Network
        self.wrapper, self.network = base.wrapped(shape)
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
        # The real settings of each step come with the step.
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.0, foreach=False)

    @property
    def accumulating(self) -> bool:
        """Whether gradients wait for an optimizer step."""
        return any(p.grad is not None for p in self.parameters.values())

    def forward_backward(self, job: Job, budget: int) -> Generator[None, None, Logprobs]:
        """Compute JOB and add its gradients to those that wait; yields between micro-batches."""
        parameters = list(self.parameters.values())
        # What waited is set aside, so that a request that fails half way leaves no trace.
        waiting = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        done = False
        try:
            work = run_job(self.network, job, budget)
            while True:
                self.wrapper.bind(self.parameters)
                try:
                    next(work)
                except StopIteration as finished:
                    output: Logprobs = finished.value
                    break
                yield
            if not gradients_are_finite(parameters):
                raise OperationFailed("The gradient is not finite; the request had no effect")
            done = True
        finally:
            if not done:
                for parameter, gradient in zip(parameters, waiting, strict=True):
                    parameter.grad = gradient
        for parameter, gradient in zip(parameters, waiting, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
        return output

    def optim_step(self, params: AdamParams) -> dict[str, float]:
        """Take one AdamW step with the gradients that wait, and return what to tell the client.

        Without any gradient the step is taken with zeros, as the sum over no data is zero.
        """
        check_adam(params)
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        limit = params.grad_clip_norm or math.inf
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Adam squares gradients: beyond this its second moment would overflow for good.
        if not float(norm) < 1e18:
            raise OperationFailed("The gradient's norm is out of range; the step had no effect")
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = params.learning_rate
            group["betas"] = (params.beta1, params.beta2)
            group["eps"] = params.eps
            group["weight_decay"] = params.weight_decay
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": float(norm)}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the next operation needs, as named tensors."""
        found = self.optimizer_tensors()
        for name, parameter in self.parameters.items():
            found[f"adapter.{name}"] = parameter.detach()
            if parameter.grad is not None:
                found[f"grad.{name}"] = parameter.grad
        return found

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's moments and step counts, as named tensors."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            found |= {f"{key}.{name}": state[key] for key in (*MOMENTS, "step") if key in state}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over optimizer state and waiting gradients from what these returned once."""
        for name, parameter in self.parameters.items():
            state = {
                key: tensors[f"{key}.{name}"].to(
                    parameter.device if key != "step" else "cpu", copy=True
                )
                for key in (*MOMENTS, "step")
                if f"{key}.{name}" in tensors
            }
            if state:
                self.optimizer.state[parameter] = state
            if (gradient := tensors.get(f"grad.{name}")) is not None:
                parameter.grad = gradient.to(parameter.device, copy=True)


def check_adam(params: AdamParams) -> None:
    """Refuse settings that AdamW is not defined for, before anything is touched."""
    values = params.model_dump()
    for name, value in values.items():
        if not math.isfinite(value) or value < 0:
            raise OperationFailed(f"The optimizer setting `{name}` must be 0 or more, not {value}")
    for name in ("beta1", "beta2"):
        if values[name] >= 1:
            raise OperationFailed(f"The optimizer setting `{name}` must be below 1")
    if params.eps == 0:
        raise OperationFailed("The optimizer setting `eps` must be above 0")
    if params.learning_rate > 10:
        raise OperationFailed(
            f"A learning rate of {params.learning_rate} would destroy the adapter; use 10 or less"
        )
    if params.learning_rate * params.weight_decay >= 1:
        raise OperationFailed("learning_rate times weight_decay must be below 1")


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write TENSORS to PATH so that the file is either whole or not there."""
    unfinished = path.with_suffix(".unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read_state(base: LoadedBase, shape: LoraShape, path: Path) -> TrainingState:
    """Bring back the run that `write_tensors` saved at PATH."""
    tensors = load_file(path)
    wrapper, _ = base.wrapped(shape)
    # Copied out of the mapped file, as in `Wrapped.load`.
    adapter = {
        name: tensors[f"adapter.{name}"].to(wrapper.device, copy=True) for name in wrapper.shapes
    }
    state = TrainingState(base, shape, adapter)
    state.restore(tensors)
    return state
