"""What moves the weights: Adam, or a library's optimiser that preconditions whole matrices of weights.

Adam and AdamW are torch's own, in one kernel that looks itself whether a step is finite. SOAP (Vyas et al.
2024, arXiv 2409.11321: Adam in the slowly changing eigenbases of Shampoo's preconditioners) is
pytorch-optimizer's, and Muon (Jordan 2024) is torch's. Neither of these two knows of CUDA graphs or of
learning rates that lie on the device, nor Muon of convolutions; stand-ins for the weights make them fit: see
Preconditioned.
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

#: Of AdamW, on convolution kernels alone: biases, GDN and entropy models have bounds of their own.
_DECAY = 0.01

#: SOAP: steps between two refreshes of the eigenbases, the longest side of a weight that gets one, and the
#: decay of the first and second moments (docs/benchmarks.md, Optimisers).
_REFRESH_EVERY, _LONGEST_SIDE, _BETAS = 10, 1024, (0.95, 0.95)

#: More steps than any training has.
_NEVER = 2**62

#: CUDA streams that the weights are spread over; the update of each is a chain of small kernels.
_STREAMS = 8

#: Runs some work on the device, or replays it from a graph.
Run = Callable[[Callable[[], None]], object]


def _as_it_is(work: Callable[[], None]) -> None:
    work()


def build(name: Optimizer, weights: Sequence[Tensor], fused: bool = True) -> Adam | Preconditioned:
    """The optimiser of that name; `fused` is for Adam and AdamW alone."""
    if name in ("adam", "adamw"):
        return Adam(weights, _DECAY if name == "adamw" else 0.0, fused)
    return Preconditioned(name, weights)


def state_bytes(name: Optimizer, weights: Sequence[Tensor]) -> int:
    """Bytes that the optimiser keeps of these weights, in memory and in a checkpoint: moments as large as a
    weight, and of SOAP a statistic and a basis of each side. In memory SOAP and Muon have stand-ins and their
    gradients besides, two more weights."""
    total = 0
    for weight in weights:
        moments = 1 if name == "muon" and weight.ndim == 4 else 2
        sides = sum(2 * side**2 for side in _sides(weight) if side <= _LONGEST_SIDE and weight.ndim > 1)
        total += moments * weight.numel() + (sides if name == "soap" else 0)
    return 4 * total


class Adam:
    """torch's Adam or AdamW. Where it is fused it never asks the host: a whole step is one CUDA graph."""

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
        """Let what a step reads lie on the device, where it lies from now on."""
        for group in self._inner.param_groups:
            group["capturable"] = True
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def take_gradients(self) -> None:
        """Nothing: torch's optimisers read the weights' own."""

    def set_rate(self, lr: float) -> None:
        """The learning rate of the steps to come."""
        for group in self._inner.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def step(self, finite: Tensor | None = None, run: Run = _as_it_is) -> None:  # noqa: ARG002
        """Move the weights by their gradients, unless it is said that those are not finite."""
        # The kernel looks at this number itself, so that the host need not wait for it.
        self._inner.found_inf = None if finite is None else (~finite).float()  # type: ignore[attr-defined]
        self._inner.step()

    def state_dict(self) -> dict[str, Any]:
        """The state, the same wherever it was computed."""
        state = self._inner.state_dict()
        groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError if it belongs to another optimiser or other weights,
        or anything at all if it was forged."""
        groups = self.state_dict()["param_groups"]
        if [{**g, "lr": 0} for g in found["param_groups"]] != [{**g, "lr": 0} for g in groups]:
            raise ValueError("its optimiser is another")
        weights = [w for group in self._inner.param_groups for w in group["params"]]
        for number, moments in found["state"].items():  # torch's loader believes all numbers and shapes
            _check_shapes(moments, weights[number], _ADAM_MOMENTS)
        self._inner.load_state_dict(found)


@dataclass(frozen=True)
class _Stand:
    """What stands in for a weight: a tensor that a library's optimiser moves with a learning rate of one.
    `moments` names what of its state is shaped as it is; `factor` multiplies its move after so many steps."""

    tensor: Tensor
    optimiser: torch.optim.Optimizer
    moments: tuple[str, ...]
    factor: Callable[[int], float] = lambda _steps: 1.0


def _soap(weight: Tensor) -> _Stand:
    """SOAP, without the library's correction of the moments' bias, which a captured step would not update,
    and without its refresh (lic.training.eigenbases)."""
    from pytorch_optimizer.optimizer.soap import SOAP  # brings a hundred others

    tensor = weight.new_zeros(_sides(weight), requires_grad=False)
    inner = SOAP(
        [tensor], lr=1.0, betas=_BETAS, weight_decay=0.0, precondition_frequency=_NEVER,
        max_precondition_dim=_LONGEST_SIDE, merge_dims=False, correct_bias=False,
    )  # fmt: skip
    inner.param_groups[0]["step"] = 0

    def factor(steps: int) -> float:
        # The first step only looks.
        return math.sqrt(1 - _BETAS[1] ** steps) / (1 - _BETAS[0] ** steps) if steps else 0.0

    return _Stand(tensor, inner, _ADAM_MOMENTS, factor)


def _sides(weight: Tensor) -> tuple[int, ...]:
    """The sides that get an eigenbasis: the places of a convolution kernel are one."""
    return (*weight.shape[:2], weight[0, 0].numel()) if weight.ndim == 4 else tuple(weight.shape)


def _muon(weight: Tensor) -> _Stand:
    """Muon for the convolution kernels, as matrices of one row for each first index, at the step size that
    suits Adam (Liu et al. 2025, arXiv 2502.16982); Adam for the rest."""
    if weight.ndim < 4:
        tensor = torch.zeros_like(weight, requires_grad=False)
        return _Stand(tensor, torch.optim.Adam([tensor], lr=1.0, fused=True), _ADAM_MOMENTS)
    tensor = weight.new_zeros(len(weight), weight[0].numel(), requires_grad=False)
    inner = torch.optim.Muon([tensor], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return _Stand(tensor, inner, ("momentum_buffer",))


class Preconditioned:
    """SOAP or Muon: each weight has an optimiser of the library, and moves by the learning rate times what
    that makes of a stand-in.

    The stand-in is zero before a step and has the weight's gradient. So the learning rate may lie on the
    device, a convolution kernel may be the matrix that Muon wants, and a step is a list of kernels that a
    CUDA graph holds; SOAP's refresh, every tenth step, is started beside it. All of it is fp32, whatever the
    transforms' arithmetic. Before anything moves, the host waits to hear whether the gradient is finite, once
    a step.
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
        #: Of each weight, what its stand-in's move is multiplied by in the step that runs.
        self._factors: list[Any] = [0.0] * len(self._weights)
        self._on_device: Tensor | None = None

    def lie_still(self) -> None:
        """Let what a step reads lie on the device, where it lies from now on."""
        self._on_device = torch.zeros(len(self._weights), device=self._weights[0].device)
        self._factors = list(self._on_device.unbind())
        for group in self._groups():
            if "capturable" in group:
                group["capturable"] = True

    def set_rate(self, lr: float) -> None:
        """The learning rate of the steps to come."""
        self._rate = lr

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Hand the weights' gradients to what stands in for them: the end of what measures them."""
        for weight, stand in zip(self._weights, self._stands, strict=True):
            assert stand.tensor.grad is not None
            if weight.grad is None:
                stand.tensor.grad.zero_()
            else:
                stand.tensor.grad.view_as(weight).copy_(weight.grad)

    def step(self, finite: Tensor | None = None, run: Run = _as_it_is) -> None:  # noqa: ARG002
        """Move the weights by the gradients that were taken. `run` runs what it is given, or replays it."""
        self._count()  # a capture that failed has counted, too
        factors: list[Any] = [self._rate * stand.factor(self._steps) for stand in self._stands]
        if self._on_device is None:
            self._factors = factors
        else:
            self._on_device.copy_(torch.tensor(factors))
        if self._steps:
            run(self._move)
        else:  # which makes the state
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
        """Let the libraries' own counts be this one: a graph that is replayed does not count."""
        for group in self._groups():
            if "step" in group:
                group["step"] = self._steps

    def state_dict(self) -> dict[str, Any]:
        """The state, the same wherever it was computed."""
        states = [stand.optimiser.state_dict()["state"].get(0, {}) for stand in self._stands]
        return {"rule": self._rule, "steps": self._steps, "state": states}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError if it belongs to another optimiser or other weights,
        or anything at all if it was forged."""
        if found.get("rule") != self._rule or len(found["state"]) != len(self._stands):
            raise ValueError("its optimiser is another")
        if type(found["steps"]) is not int or found["steps"] < 0:
            raise ValueError("its optimiser's number of steps is none")
        for state, stand in zip(found["state"], self._stands, strict=True):
            if found["steps"]:
                _check_shapes(state, stand.tensor, stand.moments)
                _check_sides(state, stand.tensor)
            inner = stand.optimiser.state_dict()
            stand.optimiser.load_state_dict({**inner, "state": {0: state} if found["steps"] else {}})
        self._steps = found["steps"]
        self._count()


class _Fan:
    """Chains of kernels, beside each other on a GPU and after each other elsewhere."""

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
        raise ValueError("its optimiser is of another model")


def _check_sides(state: dict[str, Any], weight: Tensor) -> None:
    """Of SOAP's state: that each side of a weight has a square matrix or none."""
    for key in {"GG", "Q"} & state.keys():
        sides = [len(part) and tuple(part.shape) for part in state[key]]
        if any(of not in (0, (side, side)) for of, side in zip(sides, weight.shape, strict=True)):
            raise ValueError("its optimiser is of another model")
