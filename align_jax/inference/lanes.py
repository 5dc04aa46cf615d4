"""A program on a CPU, as many small executions side by side, each on a core of its own.

One execution over all cores waits at the end of each operator for the last of them, and a whole batch's maps do not fit
into the caches. Pieces of a batch, a core each, need neither to wait nor to leave the cache; `benchmarks/RESULTS.md`,
"Inference", has both.
"""

import functools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from align_jax.cores import usable_cores

# Each is left out where XLA does not know it.
_COMPILER_OPTIONS: dict[str, Any] = {
    "xla_cpu_multi_thread_eigen": False,  # one execution, one core
    "xla_cpu_prefer_vector_width": 512,  # 256 is the default even where there are registers of 512 bits
    # Of YNNPACK's operators only the sums: Eigen's matrix products are up to a fifth faster at a map's few rows.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def lane_count(mesh: Mesh) -> int:
    """The cores of the host, if the mesh is the host alone; else 0: then devices share the batch."""
    device = mesh.devices.flat[0]
    return usable_cores() if mesh.size == 1 and device.platform == "cpu" else 0


class Lanes:
    """Threads that run a function on pieces of batches.

    Args:
        function: of the variables and of arrays with a row for each example; gives one array of such rows.
        count: executions side by side.
    """

    def __init__(self, function: Callable[..., jax.Array], count: int):
        self._function = jax.jit(function, compiler_options=known_compiler_options())
        self._programs: dict[Any, Any] = {}
        self._compiling = threading.Lock()
        self._pool = ThreadPoolExecutor(count, "lane")

    def start(
        self, variables: Any, rows: Sequence[np.ndarray], needed: np.ndarray, piece_rows: int
    ) -> Callable[[], np.ndarray]:
        """Starts a batch.

        Args:
            variables: on the device.
            rows: arrays with a row for each example.
            needed: False where the result does not matter; a piece without needed rows is not computed.
            piece_rows: rows of every execution.

        Returns:
            What waits for the result, and gives it; rows of pieces that were not computed are zero.
        """
        count, size = len(needed), piece_rows
        starts = [start for start in range(0, count, size) if needed[start : start + size].any()]
        pieces = [tuple(_filled(array[start : start + size], size) for array in rows) for start in starts]
        program = self._program(variables, pieces[0]) if pieces else None
        futures: list[Future[np.ndarray]] = [self._pool.submit(_run, program, variables, piece) for piece in pieces]

        def finish() -> np.ndarray:
            results = {start: future.result() for start, future in zip(starts, futures, strict=True)}
            if not results:
                shape = jax.eval_shape(self._function, variables, *(array[:1] for array in rows)).shape
                return np.zeros((count, *shape[1:]), np.float32)
            blank = np.zeros_like(next(iter(results.values())))
            return np.concatenate([results.get(start, blank) for start in range(0, count, size)])[:count]

        return finish

    def _program(self, variables: Any, piece: tuple[np.ndarray, ...]) -> Any:
        """Compiled by the first thread that asks, once for each shape."""
        shapes = tuple((array.shape, array.dtype) for array in piece)
        with self._compiling:
            if shapes not in self._programs:
                self._programs[shapes] = self._function.lower(variables, *piece).compile()
            return self._programs[shapes]


def cached_rows(bytes_of_a_row: int, batch_size: int, count: int) -> int:
    """Rows of a piece: as many as the cache holds, but no more than leave work for every lane."""
    fitting = max(1, _CACHE_BYTES // bytes_of_a_row)
    return min(fitting, math.ceil(batch_size / count))


_CACHE_BYTES = 6 * 2**20  # of one map; a core's second-level cache and its share of the third


@functools.cache
def known_compiler_options() -> dict[str, Any]:
    """Those of our options that this release of XLA has."""

    def known(option: dict[str, Any]) -> bool:
        try:
            jax.jit(lambda: np.float32(0), compiler_options=option).lower().compile()
        except (jax.errors.JaxRuntimeError, ValueError):
            return False
        return True

    return {name: value for name, value in _COMPILER_OPTIONS.items() if known({name: value})}


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def _run(program: Any, variables: Any, piece: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.asarray(program(variables, *piece))
