"""What this package needs of torch beyond its public interface, in one place: TorchDynamo's module and the
errors of a compilation. Written against torch 2.15."""

from __future__ import annotations

from typing import Any

import torch

from lic import run_later


def compile_errors() -> tuple[type[Exception], ...]:
    """What a step that cannot be compiled raises; asked only where something was raised, as these modules are
    slow to import. Compiled code checks the layouts that it was made for; where cuDNN answers in another,
    for some sizes, that is an AssertionError, in the backward pass too."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError, AssertionError


def leave_out_dynamo() -> None:
    """Let this process train without TorchDynamo, which takes as long to import as torch, unless something is
    compiled after all. torch's optimisers import it to keep it out of their work."""
    known = {"disable": _undisturbed, "graph_break": _nothing_to_break}
    run_later.put_in_place("torch._dynamo", torch.__path__, known)


def _undisturbed(function: Any = None, *_: Any, **_options: Any) -> Any:
    """In place of torch._dynamo.disable, which is a decorator, and without a function makes one."""
    return _undisturbed if function is None else function


def _nothing_to_break() -> None:
    """In place of torch._dynamo.graph_break, which does nothing in code that is not compiled."""
