"""The state of one training run: weights, gradients and optimizer, in memory and on disk."""

import math
import os
from collections.abc import Generator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tinker.types import AdamParams
from torch import Tensor, nn

from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.compute.loaded_model import LoadedBase
from dreadnode_engine.compute.network import Network
from dreadnode_engine.compute.training import Job, gradients_are_finite, run_job
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.protocol.protobuf import Logprobs

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """One run in memory. A method that raises has not changed it."""

    def __init__(self, base: LoadedBase, shape: LoraShape, tensors: Mapping[str, Tensor]) -> None:
        self.base = base
        self.shape = shape
        self.wrapper: PeftWrapper
        self.network: Network
        self.wrapper, self.network = base.wrapper_for(shape)
        # In the order of the modules, not of TENSORS: the norm of the gradients sums in this order.
        self.parameters = {name: nn.Parameter(tensors[name]) for name in self.wrapper.shapes}
        # The settings come with each step. On a GPU the fused step would keep its counts there.
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=0.0,
            foreach=False,
            fused=self.wrapper.device.type == "cpu",
        )

    @property
    def accumulating(self) -> bool:
        """Whether there are gradients that no optimizer step has used."""
        return any(p.grad is not None for p in self.parameters.values())

    def forward_backward(self, job: Job, budget: int) -> Generator[None, None, Logprobs]:
        """Compute JOB and accumulate its gradients; yield between micro-batches."""
        parameters = list(self.parameters.values())
        # Earlier gradients are set aside, so that a request that fails half way changes nothing.
        earlier = [p.grad for p in parameters]
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
                for parameter, gradient in zip(parameters, earlier, strict=True):
                    parameter.grad = gradient
        for parameter, gradient in zip(parameters, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
        return output

    def optim_step(self, params: AdamParams) -> dict[str, float]:
        """Take one AdamW step with the accumulated gradients; return metrics.

        Without gradients the step uses zeros: the sum over no data.
        """
        check_adam(params)
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        limit = params.grad_clip_norm or math.inf
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Adam squares gradients: beyond this its second moment would overflow and stay infinite.
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
        """Return the whole state as named tensors."""
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
        """Load optimizer state and gradients from TENSORS, as `tensors` returned them."""
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
    """Refuse settings for which AdamW is not defined."""
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
        raise OperationFailed(f"The learning rate must be 10 or less, not {params.learning_rate}")
    if params.learning_rate * params.weight_decay >= 1:
        raise OperationFailed("learning_rate times weight_decay must be below 1")


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write TENSORS to PATH atomically."""
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
    """Return the run whose tensors `write_tensors` saved at PATH."""
    tensors = load_file(path)
    wrapper, _ = base.wrapper_for(shape)
    # Copied, in the order of the modules: see `PeftWrapper.load`.
    adapter = {
        name: tensors[f"adapter.{name}"].to(wrapper.device, copy=True) for name in wrapper.shapes
    }
    state = TrainingState(base, shape, adapter)
    state.restore(tensors)
    return state
