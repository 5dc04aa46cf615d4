"""What Orbax and TensorStore print, from threads of their own, of a failed write that they raise as well."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


@contextmanager
def only_raised() -> Iterator[None]:
    """Keeps tracebacks of other threads off the screen; those of the main thread are shown as ever.

    A single full disk otherwise prints hundreds of them. Threads started by `threading`, whose errors Python hands to
    another hook, are not concerned.
    """
    previous = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            previous(kind, error, trace)

    futures = logging.getLogger("asyncio")
    level = futures.level
    sys.excepthook = show
    futures.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.excepthook = previous
        futures.setLevel(level)
