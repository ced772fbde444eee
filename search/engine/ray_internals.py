"""What this package needs of Ray beyond its public interface, in one place. Written against Ray 2.60."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


def on_worker_output(handler: Callable[..., None]) -> None:
    """Have `handler` called with the last lines of Ray's processes, which Ray prints on the terminal."""
    from ray._private import worker

    worker.print_to_stdstream = handler


@contextlib.contextmanager
def signals_are_ours() -> Iterator[None]:
    """Start or join Ray so that this process keeps its signal handlers, and Ray's processes do not receive
    signals to this process group (sent by terminals, `timeout` and Slurm): they are needed to end the search
    properly, and end with this process."""
    from ray._private import services, utils

    open_to_change: Any = services  # where a class is put in another's place
    popen, handle_sigterm = services.ConsolePopen, utils.set_sigterm_handler
    open_to_change.ConsolePopen = functools.partial(popen, start_new_session=True)
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        open_to_change.ConsolePopen, utils.set_sigterm_handler = popen, handle_sigterm


def default_temp_dir() -> str:
    """Where Ray keeps sockets and logs by its own choice."""
    from ray._common.utils import get_default_ray_temp_dir

    return str(get_default_ray_temp_dir())


def starting_options(temp_dir: str | None) -> dict[str, Any]:
    """Options of ray.init for another folder of sockets and logs."""
    return {"_temp_dir": temp_dir}


def keep_keys_here() -> None:
    """Stop Ray Tune from passing AWS keys in the environment to workers, since Ray writes them to its log.
    Workers use the keys of their own nodes."""
    from ray.tune.execution import class_cache

    handed_on = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in handed_on if not name.startswith("AWS_")}
