"""Accelerates training on a device without changing what it computes.

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

from lic.models.build import latent_modules
from lic.models.compressai_parts import EntropyBottleneck, EntropyModel, MaskedConv2d
from lic.ranks import ALONE, Ranks

#: Parameters of glibc's mallopt (malloc.h): the freed memory above which it is returned to the kernel, and
#: the maximum number of blocks allocated with mmap.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def device_name(device: str) -> str:
    """The name of the GPU or, for 'cpu', of the processor, if Linux reports it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def keep_freed_memory() -> None:
    """Make this process keep freed memory for its next tensors.

    By default the kernel allocates and zeroes the memory of each large tensor, again in every step, which is
    a considerable part of a step on the CPU. Does nothing if the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def matrix_units(tf32: bool, autotune: bool = False) -> Iterator[None]:
    """Set whether fp32 products may use TF32 (torch's default allows it for convolutions only), and whether
    cuDNN benchmarks its kernels."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = products.allow_tf32 = tf32
    cudnn.benchmark = autotune
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = before


class CaptureError(RuntimeError):
    """No CUDA graph can be captured of a step; the step was not run."""


class StepGraph:
    """A training step as one CUDA graph: one launch per step instead of some hundred kernel launches, which
    take longer than the kernels run.

    `work` takes a batch and returns a tensor on the GPU. Apart from the batch, it may depend only on tensors
    at fixed addresses (weights, optimizer state, learning rate) and on torch's generator. The first calls run
    it eagerly, since a capture can neither compile nor select kernels; then it is captured and replayed.
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
    """Run work that is to be captured later on a side stream: use of the default stream would leave autograd
    state that makes the capture fail."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = work(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    return result


def free_latents_and_entropy_models(model: nn.Module, ranks: Ranks = ALONE) -> None:
    """Prepare a model for autocast, compilation and asynchronous execution.

    Autocast ends at the latents: the latents and the entropy models compute in fp32. In bfloat16 a latent of
    value 50 has steps of 0.25, too coarse compared with quantization noise of width 1. CompressAI's entropy
    bottleneck reads a permutation back from the device at every call; here it is a transposition. Its masked
    convolution replaces its weight tensor at every call, in another layout than compiled code expects
    (AssertionError in torch 2.11); here the weights are masked in place. On several ranks, the entropy models
    of each add its part of the noise of the whole batch.
    """
    for _, module in latent_modules(model):
        module.register_forward_hook(_to_fp32)
    for module in model.modules():
        # Replace the class rather than a method of the module: compiled code checks the class of modules.
        kind: Any = type(module)
        if isinstance(module, EntropyModel):
            module.__class__ = _freed(kind, ranks)
        elif isinstance(module, MaskedConv2d) and kind.forward is MaskedConv2d.forward:
            module.__class__ = _masked_in_place(kind)


def _to_fp32(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.float()


@functools.cache
def _freed(kind: Any, ranks: Ranks) -> type[nn.Module]:
    """A subclass of this entropy model that always computes in fp32."""
    plain = _bottleneck if kind is EntropyBottleneck else kind.forward

    class Freed(kind):  # type: ignore[misc]  # of whichever class the model has
        def forward(self, *inputs: Any, **options: Any) -> Any:
            with torch.autocast(inputs[0].device.type, enabled=False):
                named = {name: _fp32(value) for name, value in options.items()}
                return plain(self, *map(_fp32, inputs), **named)

    if ranks.count > 1 and kind.quantize is EntropyModel.quantize:
        Freed.quantize = _quantize_a_part(ranks, -1 if issubclass(kind, EntropyBottleneck) else 0)
    return Freed


def _quantize_a_part(ranks: Ranks, samples: int) -> Callable[..., Tensor]:
    """EntropyModel.quantize on a rank; `samples` is the dimension of the batch, with which the positions are
    merged in an entropy bottleneck."""

    def quantize(module: Any, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        if mode == "noise":
            return inputs + ranks.noise(inputs, samples)
        rounded: Tensor = EntropyModel.quantize(module, inputs, mode, means)
        return rounded

    return quantize


@functools.cache
def _masked_in_place(kind: Any) -> Any:
    """A subclass of this masked convolution that masks its weights in place."""

    class MaskedInPlace(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(self.mask)
            return nn.Conv2d.forward(self, x)

    return MaskedInPlace


def _fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _bottleneck(module: Any, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
    """EntropyBottleneck.forward of CompressAI 1.2.8 with identical results: z and its likelihoods."""
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
