"""What makes training fast on the device at hand and does not change what it computes.

The switches are those of lic.recipe.Acceleration.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lic.models.compressai_parts import EntropyBottleneck, EntropyModel, MaskedConv2d

#: Parameters of glibc's mallopt (malloc.h): how much freed memory goes back to the kernel, and how many
#: blocks may be the kernel's own from the first.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def device_name(device: str) -> str:
    """What the GPU, or on the CPU the processor, is called, as far as Linux tells that."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next tensors.

    By default each large tensor is memory that the kernel has to find and fill with zeros, again in every
    step; on the CPU that is a good part of one. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def matrix_units(tf32: bool, autotune: bool = False) -> Iterator[None]:
    """Whether CUDA's matrix units may take the factors of fp32 products in TF32 (by torch's own default
    convolutions may, and other products may not), and whether cuDNN tries which of its kernels is fastest."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = products.allow_tf32 = tf32
    cudnn.benchmark = autotune
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = before


class CaptureError(RuntimeError):
    """A step of which no CUDA graph can be made; it was not run, then."""


class StepGraph:
    """A training step as one CUDA graph: the host starts one thing a step where else it starts some hundred
    kernels, which takes it longer than they run.

    `work` takes a batch and returns a tensor on the GPU; but for the batch, it must be a function of what
    lies where it lay (weights, their optimiser's state, learning rate) and of torch's generator. The first
    calls run it as it is, since a capture may neither compile nor choose kernels; then it is captured and
    replayed.
    """

    _WARM_UP = 3

    def __init__(self) -> None:
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, work: Callable[..., Tensor | None], *inputs: Tensor) -> Tensor | None:
        """The result of `work`; its inputs must keep their shapes and layouts. Raises CaptureError."""
        if self._graph is None:
            if self._calls < self._WARM_UP:
                self._calls += 1
                return _aside(work, *inputs)
            self._inputs, graph = [given.clone() for given in inputs], torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self._result = work(*self._inputs)
            except RuntimeError as error:
                raise CaptureError(str(error)) from error
            self._graph = graph
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return None if self._result is None else self._result.clone()


def _aside(work: Callable[..., Tensor | None], *inputs: Tensor) -> Tensor | None:
    """The result of a work that is to be captured: not on the default stream, whose traces in autograd's
    state a capture would trip over."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = work(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    return result


def free_latents_and_entropy_models(model: nn.Module) -> None:
    """Make a model fit for autocast, for compilation, and for a device that the host does not wait for.

    Autocast ends at the latents: they and all that the entropy models compute are fp32. In bfloat16 a latent
    of 50 has steps of a quarter, too coarse beside quantisation noise of width 1. CompressAI's entropy
    bottleneck reads a permutation back from the device at every call; here it is a transposition. Its masked
    convolution puts new weights in the place of its old ones at every call, in another layout than compiled
    code was made for (torch 2.11 then ends with an AssertionError); here they are masked where they lie.
    """
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in ("g_a", "h_a"):
            module.register_forward_hook(_to_fp32)
        # By its class, not by a method of this one module: compiled code asks whether a model is alike.
        kind: Any = type(module)
        if isinstance(module, EntropyModel):
            module.__class__ = _freed(kind)
        elif isinstance(module, MaskedConv2d):
            module.__class__ = _masked_in_place(kind)


def _to_fp32(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.float()


@functools.cache
def _freed(kind: Any) -> type[nn.Module]:
    """The class of the same entropy model, in fp32 always."""
    plain = _bottleneck if kind is EntropyBottleneck else kind.forward

    class Freed(kind):  # type: ignore[misc]  # of whichever class the model has
        def forward(self, *inputs: Any, **options: Any) -> Any:
            with torch.autocast(inputs[0].device.type, enabled=False):
                named = {name: _fp32(value) for name, value in options.items()}
                return plain(self, *map(_fp32, inputs), **named)

    return Freed


@functools.cache
def _masked_in_place(kind: Any) -> Any:
    """The class of the same masked convolution, whose weights stay where they are."""

    class MaskedInPlace(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(self.mask)
            return nn.Conv2d.forward(self, x)

    return MaskedInPlace


def _fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _bottleneck(module: Any, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
    """EntropyBottleneck.forward of CompressAI 1.2.8, with the same numbers: z and its likelihoods."""
    by_channel = x.transpose(0, 1).contiguous()
    values = by_channel.reshape(x.shape[1], 1, -1)
    noisy = module.training if training is None else training
    outputs = module.quantize(values, "noise" if noisy else "dequantize", module._get_medians())
    likelihood = module._likelihood(outputs)[0]
    if module.use_likelihood_bound:
        likelihood = module.likelihood_lower_bound(likelihood)

    def restored(values: Tensor) -> Tensor:
        return values.reshape(by_channel.shape).transpose(0, 1).contiguous()

    return restored(outputs), restored(likelihood)
