"""Pieces of batches give what whole batches give, and none is computed for nothing."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.inference import lanes
from align_jax.inference.lanes import Lanes, cached_rows, lane_count
from align_jax.parallel.mesh import MeshShape

ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)


def scaled(factor: jax.Array, rows: jax.Array) -> jax.Array:
    return rows * factor[None, None]


@pytest.mark.parametrize("piece_rows", [1, 2, 3, 7, 10])
def test_size_of_the_pieces_never_matters(piece_rows: int) -> None:
    needed = np.ones(7, np.bool_)
    finish = Lanes(scaled, 2).start(jnp.float32(2), [ROWS], needed, piece_rows)
    np.testing.assert_array_equal(finish(), 2 * ROWS)


def test_pieces_without_needed_rows_are_zero_and_not_computed() -> None:
    needed = np.array([False, False, True, False, False, False, True])
    found = Lanes(scaled, 2).start(jnp.float32(2), [ROWS], needed, 2)()
    np.testing.assert_array_equal(found[needed], 2 * ROWS[needed])
    np.testing.assert_array_equal(found[[0, 1, 4, 5]], 0)
    nothing = Lanes(scaled, 2).start(jnp.float32(2), [ROWS], np.zeros(7, np.bool_), 2)()
    np.testing.assert_array_equal(nothing, np.zeros_like(ROWS))


def test_pieces_run_side_by_side() -> None:
    """Each of two waits for the other, which a single lane would never let happen."""
    meeting = threading.Barrier(2, timeout=120)

    def meet(rows: np.ndarray) -> np.ndarray:
        meeting.wait()
        return rows

    def function(_: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.pure_callback(meet, jax.ShapeDtypeStruct(rows.shape, rows.dtype), rows)

    finish = Lanes(function, 2).start(jnp.float32(0), [ROWS[:2]], np.ones(2, np.bool_), 1)
    np.testing.assert_array_equal(finish(), ROWS[:2])


def test_options_that_xla_does_not_know_are_left_out(monkeypatch) -> None:
    known = lanes.known_compiler_options()
    monkeypatch.setattr(lanes, "_COMPILER_OPTIONS", {"xla_cpu_no_such_option": True, **known})
    assert lanes.known_compiler_options.__wrapped__() == known


def test_lanes_are_for_one_cpu_alone() -> None:
    assert lane_count(MeshShape().build(jax.devices()[:2])) == 0
    assert lane_count(MeshShape().build(jax.devices()[:1])) >= 1


def test_a_piece_fits_the_cache_and_leaves_work_for_every_lane() -> None:
    assert cached_rows(2**30, batch_size=32, count=2) == 1
    assert cached_rows(1, batch_size=32, count=2) == 16
    assert cached_rows(1, batch_size=3, count=8) == 1
    assert cached_rows(2**20, batch_size=32, count=2) == 6
