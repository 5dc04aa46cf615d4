"""What Orbax and TensorStore print, from threads of their own, of a failed write that they raise as well."""

import functools
import logging
import sys
import warnings

_CLOSED = "Event loop is closed"


@functools.cache
def print_no_stray_errors() -> None:
    """Keeps the leftovers of a failed write off the screen, from now on.

    TensorStore tells each write that was under way of its end, in an event loop that Orbax has closed by then: a single
    full disk prints hundreds of tracebacks, some only when the interpreter ends, and the writes that were not begun are
    warned about.
    """
    previous = sys.unraisablehook

    def show(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == _CLOSED):
            previous(unraisable)

    sys.unraisablehook = show
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize_from_host\.", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
