"""What this package needs of torch beyond its public interface, in one place: TorchDynamo's module and the
errors of a compilation. Written against torch 2.15."""

from __future__ import annotations

from typing import Any

import torch

from lic import run_later


def compile_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a step that cannot be compiled; a function because these modules are slow to import.
    Compiled code asserts the expected layouts; for some sizes cuDNN returns others, which raises
    AssertionError, in the backward pass too."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError, AssertionError


def leave_out_dynamo() -> None:
    """Defer the import of TorchDynamo, which takes as long as that of torch, until something is compiled.
    torch's optimizers import it only to disable it for themselves."""
    known = {"disable": _undisturbed, "graph_break": _nothing_to_break}
    run_later.put_in_place("torch._dynamo", torch.__path__, known)


def _undisturbed(function: Any = None, *_: Any, **_options: Any) -> Any:
    """Replaces torch._dynamo.disable, a decorator that without a function returns a decorator."""
    return _undisturbed if function is None else function


def _nothing_to_break() -> None:
    """Replaces torch._dynamo.graph_break, which does nothing in code that is not compiled."""
