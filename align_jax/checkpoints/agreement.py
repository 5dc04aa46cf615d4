"""What one process finds out and all act upon."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from align_jax.parallel.distributed import barrier


class PrimaryError(RuntimeError):
    """The first process failed; raised in all of them."""


def from_primary(compute: Callable[[], Any]) -> Any:
    """What `compute` gives in the first process, as JSON; every process must call this, and gets it.

    Raises:
        PrimaryError: if `compute` fails, in every process: none may wait for an answer that never comes.
    """
    answer, cause = {}, None
    if jax.process_index() == 0:
        try:
            answer = {"value": compute()}
        except Exception as error:
            answer, cause = {"error": str(error) or type(error).__name__}, error
    if jax.process_count() > 1:
        barrier("what the first process found out")  # a collective would wait for it without a name, or give up
        content = np.frombuffer(json.dumps(answer).encode(), np.uint8)
        size = int(broadcast_one_to_all(np.int32(content.size)))
        padded = np.zeros(size, np.uint8)
        padded[: content.size] = content[:size]
        answer = json.loads(bytes(np.asarray(broadcast_one_to_all(padded))))
    if "error" in answer:
        raise PrimaryError(answer["error"]) from cause
    return answer["value"]
