"""What Orbax and TensorStore print, from threads of their own, of a failed write that they raise as well."""

import functools
import logging
import sys
import threading
from types import TracebackType


@functools.cache
def print_no_stray_errors() -> None:
    """Keeps tracebacks of foreign threads off the screen, from now on; those of the main thread are shown as ever.

    A single full disk otherwise prints hundreds of them, some only when the interpreter ends. Threads started by
    `threading`, whose errors Python hands to another hook, are not concerned.
    """
    previous = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            previous(kind, error, trace)

    sys.excepthook = show
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
