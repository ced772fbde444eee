"""What makes training fast on the device at hand, and leaves what it computes as it is (lic.recipe.Speed)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

#: Parameters of glibc's mallopt (malloc.h): how much freed memory goes back to the kernel, and how many
#: blocks may be the kernel's own from the first.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
def matrix_units(tf32: bool) -> Iterator[None]:
    """Whether CUDA's matrix units may take the factors of fp32 products in TF32. By torch's own default
    convolutions may, and other products may not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def free_latents_and_entropy_models(model: nn.Module) -> None:
    """Make a model fit for autocast, for compilation, and for a device that the host does not wait for.

    Autocast ends at the latents: they and all that the entropy models compute are fp32. In bfloat16 a latent
    of 50 has steps of a quarter, too coarse beside quantisation noise of width 1. CompressAI's entropy
    bottleneck reads a permutation back from the device at every call; here it is a transposition.
    """
    from compressai.entropy_models import EntropyModel

    for path, module in model.named_modules():
        if path.rpartition(".")[2] in ("g_a", "h_a"):
            module.register_forward_hook(_to_fp32)
        if isinstance(module, EntropyModel):
            # By its class, not by a method of this one module: compiled code asks whether a model is alike.
            kind: Any = type(module)
            module.__class__ = _freed(kind)


def _to_fp32(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.float()


@functools.cache
def _freed(kind: Any) -> type[nn.Module]:
    """The class of the same entropy model, in fp32 always."""
    from compressai.entropy_models import EntropyBottleneck

    plain = _bottleneck if kind is EntropyBottleneck else kind.forward

    class Freed(kind):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            with torch.autocast(inputs[0].device.type, enabled=False):
                named = {name: _fp32(value) for name, value in options.items()}
                return plain(self, *map(_fp32, inputs), **named)

    return Freed


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
