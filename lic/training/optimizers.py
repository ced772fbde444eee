"""Optimizers: Adam and AdamW, and SOAP and Muon, which precondition whole weight matrices.

Adam and AdamW are torch's; their fused kernel checks on the device whether a step is finite. SOAP (Vyas et
al. 2024, arXiv 2409.11321: Adam in the slowly changing eigenbases of Shampoo's preconditioners) is that of
pytorch-optimizer, and Muon (Jordan 2024) is torch's. Neither supports CUDA graphs or learning rates on the
device, and Muon does not support convolutions; `Preconditioned` adapts them with proxy tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lic.recipe import Optimizer
from lic.training import eigenbases

#: Weight decay of AdamW, for convolution kernels only: biases, GDN and entropy models have other constraints.
_DECAY = 0.01

#: SOAP: steps between refreshes of the eigenbases, the largest side of a weight that has an eigenbasis, and
#: the decay rates of the first and second moments (docs/benchmarks.md, Optimisers).
_REFRESH_EVERY, _LONGEST_SIDE, _BETAS = 10, 1024, (0.95, 0.95)

#: More steps than any training run has.
_NEVER = 2**62

#: Number of CUDA streams for the weight updates; each update is a chain of small kernels.
_STREAMS = 8

#: Runs work on the device, or replays it as a graph.
Run = Callable[[Callable[[], None]], object]


def _as_it_is(work: Callable[[], None]) -> None:
    work()


def build(name: Optimizer, weights: Sequence[Tensor], fused: bool = True) -> Adam | Preconditioned:
    """Build an optimizer by name; `fused` applies only to Adam and AdamW."""
    if name in ("adam", "adamw"):
        return Adam(weights, _DECAY if name == "adamw" else 0.0, fused)
    return Preconditioned(name, weights)


def state_bytes(name: Optimizer, weights: Sequence[Tensor]) -> int:
    """Bytes of the optimizer state of these weights, in memory and in a checkpoint: moments of the weights'
    sizes and, for SOAP, a statistic and a basis per side. In memory, SOAP and Muon also need proxy tensors
    and their gradients, twice the size of the weights."""
    total = 0
    for weight in weights:
        moments = 1 if name == "muon" and weight.ndim == 4 else 2
        sides = sum(2 * side**2 for side in _sides(weight) if side <= _LONGEST_SIDE and weight.ndim > 1)
        total += moments * weight.numel() + (sides if name == "soap" else 0)
    return 4 * total


class Adam:
    """torch's Adam or AdamW. If fused, it never synchronizes with the host, so a whole step can be one CUDA
    graph."""

    def __init__(self, weights: Sequence[Tensor], decay: float = 0.0, fused: bool = True) -> None:
        kernels = [w for w in weights if decay and w.ndim == 4]
        others = [w for w in weights if not (decay and w.ndim == 4)]
        groups = [
            {"params": part, "weight_decay": of} for part, of in ((kernels, decay), (others, 0.0)) if part
        ]
        kind = torch.optim.AdamW if decay else torch.optim.Adam
        self._inner = kind(groups, fused=fused)
        self.waits = not fused

    def lie_still(self) -> None:
        """Move everything that a step reads to fixed addresses on the device."""
        for group in self._inner.param_groups:
            group["capturable"] = True
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def take_gradients(self) -> None:
        """Does nothing: torch's optimizers read the gradients of the weights."""

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self._inner.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def step(self, finite: Tensor | None = None, run: Run = _as_it_is) -> None:  # noqa: ARG002
        """Update the weights with their gradients, unless `finite` is false."""
        # The kernel reads this value on the device, so that the host need not wait for it.
        self._inner.found_inf = None if finite is None else (~finite).float()  # type: ignore[attr-defined]
        self._inner.step()

    def state_dict(self) -> dict[str, Any]:
        """The state, independent of the device."""
        state = self._inner.state_dict()
        groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Load a `state_dict`. Raises ValueError if it belongs to another optimizer or other weights; a
        forged one can raise any exception."""
        groups = self.state_dict()["param_groups"]
        if [{**g, "lr": 0} for g in found["param_groups"]] != [{**g, "lr": 0} for g in groups]:
            raise ValueError("it has another optimizer")
        weights = [w for group in self._inner.param_groups for w in group["params"]]
        for number, moments in found["state"].items():  # torch's loader does not check numbers and shapes
            _check_shapes(moments, weights[number], _ADAM_MOMENTS)
        self._inner.load_state_dict(found)


@dataclass(frozen=True)
class _Stand:
    """The proxy of a weight: a tensor that the library's optimizer updates with a learning rate of 1.
    `moments` names the state tensors of the same shape; `factor(steps)` scales the update."""

    tensor: Tensor
    optimiser: torch.optim.Optimizer
    moments: tuple[str, ...]
    factor: Callable[[int], float] = lambda _steps: 1.0


def _soap(weight: Tensor) -> _Stand:
    """SOAP without the library's bias correction of the moments, which a captured step would not update, and
    without its refresh (see lic.training.eigenbases)."""
    from pytorch_optimizer.optimizer.soap import SOAP  # imports a hundred other optimizers

    tensor = weight.new_zeros(_sides(weight), requires_grad=False)
    inner = SOAP(
        [tensor], lr=1.0, betas=_BETAS, weight_decay=0.0, precondition_frequency=_NEVER,
        max_precondition_dim=_LONGEST_SIDE, merge_dims=False, correct_bias=False,
    )  # fmt: skip
    inner.param_groups[0]["step"] = 0

    def factor(steps: int) -> float:
        # The first step only initializes the statistics.
        return math.sqrt(1 - _BETAS[1] ** steps) / (1 - _BETAS[0] ** steps) if steps else 0.0

    return _Stand(tensor, inner, _ADAM_MOMENTS, factor)


def _sides(weight: Tensor) -> tuple[int, ...]:
    """The sides that have an eigenbasis; the spatial positions of a convolution kernel form one side."""
    return (*weight.shape[:2], weight[0, 0].numel()) if weight.ndim == 4 else tuple(weight.shape)


def _muon(weight: Tensor) -> _Stand:
    """Muon for convolution kernels, as matrices with one row per output channel, scaled to Adam's step size
    (Liu et al. 2025, arXiv 2502.16982); Adam for other weights."""
    if weight.ndim < 4:
        tensor = torch.zeros_like(weight, requires_grad=False)
        return _Stand(tensor, torch.optim.Adam([tensor], lr=1.0, fused=True), _ADAM_MOMENTS)
    tensor = weight.new_zeros(len(weight), weight[0].numel(), requires_grad=False)
    inner = torch.optim.Muon([tensor], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return _Stand(tensor, inner, ("momentum_buffer",))


class Preconditioned:
    """SOAP or Muon: each weight has its own library optimizer, which updates a proxy tensor; the weight moves
    by the learning rate times the update.

    The proxy is zero before a step and has the weight's gradient. So the learning rate can be on the device,
    a convolution kernel can be the matrix that Muon needs, and a step is a sequence of kernels that fits a
    CUDA graph; SOAP's refresh, every tenth step, runs outside of it. All computation is in fp32, whatever the
    training precision. Once per step, before the update, the host waits for whether the gradient is finite.
    """

    waits = True

    def __init__(self, name: Optimizer, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self._rule = [name, *([_REFRESH_EVERY, _LONGEST_SIDE, *_BETAS] if name == "soap" else [])]
        self._refresh_every = _REFRESH_EVERY if name == "soap" else _NEVER
        make = _soap if name == "soap" else _muon
        self._stands = [make(weight) for weight in self._weights]
        for stand in self._stands:
            stand.tensor.grad = torch.zeros_like(stand.tensor)
        self._steps, self._rate = 0, 0.0
        #: Factor of each weight's update in the current step.
        self._factors: list[Any] = [0.0] * len(self._weights)
        self._on_device: Tensor | None = None

    def lie_still(self) -> None:
        """Move everything that a step reads to fixed addresses on the device."""
        self._on_device = torch.zeros(len(self._weights), device=self._weights[0].device)
        self._factors = list(self._on_device.unbind())
        for group in self._groups():
            if "capturable" in group:
                group["capturable"] = True

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self._rate = lr

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Copy the weights' gradients to the proxies, at the end of the backward pass."""
        for weight, stand in zip(self._weights, self._stands, strict=True):
            assert stand.tensor.grad is not None
            if weight.grad is None:
                stand.tensor.grad.zero_()
            else:
                stand.tensor.grad.view_as(weight).copy_(weight.grad)

    def step(self, finite: Tensor | None = None, run: Run = _as_it_is) -> None:  # noqa: ARG002
        """Update the weights with the copied gradients. `run` runs its argument, or replays it as a graph."""
        self._count()  # undo the count of a failed capture
        factors: list[Any] = [self._rate * stand.factor(self._steps) for stand in self._stands]
        if self._on_device is None:
            self._factors = factors
        else:
            self._on_device.copy_(torch.tensor(factors))
        if self._steps:
            run(self._move)
        else:  # the first step creates the state
            self._move()
        if self._steps and self._steps % self._refresh_every == 0:
            eigenbases.refresh(self._states())
        self._steps += 1
        self._count()

    @torch.no_grad()
    def _move(self) -> None:
        with _Fan(self._weights[0].device) as fan:
            for number, (weight, stand) in enumerate(zip(self._weights, self._stands, strict=True)):
                with fan.stream(number):
                    stand.optimiser.step()
                    weight.add_(stand.tensor.mul_(self._factors[number]).view_as(weight))
                    stand.tensor.zero_()

    def _states(self) -> list[dict[str, Any]]:
        return [stand.optimiser.state[stand.tensor] for stand in self._stands]

    def _groups(self) -> list[dict[str, Any]]:
        return [stand.optimiser.param_groups[0] for stand in self._stands]

    def _count(self) -> None:
        """Set the libraries' step counts: replaying a graph does not update them."""
        for group in self._groups():
            if "step" in group:
                group["step"] = self._steps

    def state_dict(self) -> dict[str, Any]:
        """The state, independent of the device."""
        states = [stand.optimiser.state_dict()["state"].get(0, {}) for stand in self._stands]
        return {"rule": self._rule, "steps": self._steps, "state": states}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Load a `state_dict`. Raises ValueError if it belongs to another optimizer or other weights; a
        forged one can raise any exception."""
        if found.get("rule") != self._rule or len(found["state"]) != len(self._stands):
            raise ValueError("it has another optimizer")
        if type(found["steps"]) is not int or found["steps"] < 0:
            raise ValueError("its optimizer has an invalid number of steps")
        for state, stand in zip(found["state"], self._stands, strict=True):
            if found["steps"]:
                _check_shapes(state, stand.tensor, stand.moments)
                _check_sides(state, stand.tensor)
            inner = stand.optimiser.state_dict()
            stand.optimiser.load_state_dict({**inner, "state": {0: state} if found["steps"] else {}})
        self._steps = found["steps"]
        self._count()


class _Fan:
    """Runs chains of kernels, in parallel on a GPU and in sequence elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._streams = _streams(device) if device.type == "cuda" else ()

    def __enter__(self) -> _Fan:
        for stream in self._streams:
            stream.wait_stream(torch.cuda.current_stream())
        return self

    def stream(self, number: int) -> AbstractContextManager[object]:
        """Where the chain of that number runs."""
        return torch.cuda.stream(self._streams[number % _STREAMS]) if self._streams else nullcontext()

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            torch.cuda.current_stream().wait_stream(stream)


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    return tuple(torch.cuda.Stream(device) for _ in range(_STREAMS))


_ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


def _check_shapes(state: dict[str, Any], weight: Tensor, moments: tuple[str, ...]) -> None:
    if any(state[key].shape != weight.shape for key in moments):
        raise ValueError("its optimizer state belongs to another model")


def _check_sides(state: dict[str, Any], weight: Tensor) -> None:
    """Check in SOAP's state that each side of a weight has a square matrix of its size, or none."""
    for key in {"GG", "Q"} & state.keys():
        sides = [len(part) and tuple(part.shape) for part in state[key]]
        if any(of not in (0, (side, side)) for of, side in zip(sides, weight.shape, strict=True)):
            raise ValueError("its optimizer state belongs to another model")
