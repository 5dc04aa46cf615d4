"""Which steps stay."""

import pytest

from align_jax.checkpoints import Checkpoints
from align_jax.checkpoints import steps as module
from tests.checkpoints.small_state import assert_is_step, position, restore, save, state, steps_on_disk


def test_newest_and_multiples_stay(tmp_path):
    save(tmp_path, *range(10, 80, 10), keep_latest=2, keep_every=30)
    assert steps_on_disk(tmp_path) == [30, 60, 70]
    assert not list(tmp_path.glob("*.unfinished"))


def test_older_step_stays_until_the_manifest_of_the_newer_is_written(tmp_path, monkeypatch):
    save(tmp_path, 10, keep_latest=1)
    seen = []

    def write_manifest(folder):
        seen.append(steps_on_disk(tmp_path))
        raise OSError("killed here")

    monkeypatch.setattr(module, "write_manifest", write_manifest)
    with pytest.raises(ValueError, match="checkpoint 20 could not be written: killed here"):
        save(tmp_path, 20, keep_latest=1)
    assert seen == [[10, 20]]
    assert_is_step(restore(tmp_path), 10)


def test_fall_back_does_not_use_up_what_is_kept(tmp_path):
    save(tmp_path, 10, 20, 30, keep_latest=3)
    for step in (20, 30):
        (tmp_path / str(step) / "commit_success.txt").unlink(missing_ok=True)
        (tmp_path / str(step) / "_CHECKPOINT_METADATA").unlink()
    save(tmp_path, 20, 30, keep_latest=3)  # 10 is the last that was good
    assert steps_on_disk(tmp_path) == [10, 20, 30]


def test_saving_while_the_step_before_is_written_keeps_both(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 11, 11):
            checkpoints.save(step, state(step), position(step))
        checkpoints.wait()
        assert checkpoints.latest_step() == 11
    assert_is_step(restore(tmp_path), 11)
    (tmp_path / "11" / "SHA256SUMS").unlink()
    assert_is_step(restore(tmp_path), 10)


@pytest.mark.parametrize("options", [{"keep_latest": 0}, {"keep_every": 0}])
def test_keeping_nothing_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="0"):
        Checkpoints(tmp_path, **options)


def test_old_step_that_cannot_be_deleted_costs_no_new_one(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(f"{folder.name} cannot be deleted")

    save(tmp_path, 10, keep_latest=1)
    monkeypatch.setattr(module, "_delete", refuse)
    with pytest.raises(ValueError, match="checkpoint 20 is written, but an older one could not be deleted: 10 cannot"):
        save(tmp_path, 20, keep_latest=1)
    monkeypatch.undo()
    assert_is_step(restore(tmp_path), 20)
