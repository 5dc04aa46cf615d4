"""Whatever happens to a checkpoint's files is found, and the step before is used."""

import shutil

import pytest

from align_jax.checkpoints import CheckpointError, Checkpoints
from align_jax.checkpoints.steps import Steps
from align_jax.files import MANIFEST
from tests.checkpoints.small_state import abstract, assert_is_step, contents, restore, save, state, steps_on_disk


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path):
    path.unlink()


DAMAGES = (flip_a_bit, truncate, delete)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    save(directory, 10, 20)
    return directory


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_and_the_step_before_is_used(two_steps, tmp_path, damage):
    names = files_of(two_steps / "20")
    assert len(names) > 10
    assert MANIFEST in names
    for name in names:
        directory = tmp_path / name.replace("/", "_")
        shutil.copytree(two_steps, directory)
        damage(directory / "20" / name)
        selection = Steps(directory, keep_latest=1, keep_every=None).select()
        assert selection.step == 10, name
        (rejected,) = selection.rejected
        assert name in rejected.reason or name == MANIFEST, rejected


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_arrays_are_renamed_and_the_step_before_is_restored(two_steps, tmp_path, damage):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    largest = max((directory / "20" / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    damage(largest)
    restored = restore(directory)
    assert_is_step(restored, 10)
    (rejected,) = restored.rejected
    assert str(rejected).startswith("checkpoint 20 is not used: state/")
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20.damaged"]


def test_damaged_step_is_kept_aside_and_its_number_is_saved_again(two_steps, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    for _ in range(2):
        delete(directory / "20" / "position" / "metadata")
        save(directory, 20)
        assert_is_step(restore(directory), 20)
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20", "20.damaged", "20.damaged-2"]


@pytest.mark.parametrize("damaged_file", [MANIFEST, "state/_METADATA"])
def test_no_whole_checkpoint_is_an_error_that_changes_nothing(two_steps, tmp_path, damaged_file):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    for step in ("10", "20"):
        delete(directory / step / damaged_file)
    before = contents(directory)
    with pytest.raises(CheckpointError, match="no checkpoint in") as refused:
        restore(directory)
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError, match="is whole"):
        checkpoints.restore_variables()
    assert f"20: {damaged_file} is missing; " in str(refused.value)
    assert f"10: {damaged_file} is missing" in str(refused.value)
    assert contents(directory) == before


def test_checkpoint_of_another_experiment_is_no_damage(two_steps, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    flip_a_bit(directory / "20" / "state" / "_METADATA")
    before = contents(directory)
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError, match="not of this experiment"):
        checkpoints.restore(abstract(state(0)["params"]))
    assert contents(directory) == before


def test_variables_come_from_the_newest_whole_step_and_nothing_moves(two_steps, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    flip_a_bit(directory / "20" / "state" / "_METADATA")
    before = contents(directory)
    with Checkpoints(directory) as checkpoints, pytest.warns(RuntimeWarning, match="_METADATA was altered"):
        variables = checkpoints.restore_variables()
    assert float(variables["params"]["bias"][0]) == 10
    assert contents(directory) == before


def test_run_that_ended_while_writing_its_first_step_starts_again(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "10" / MANIFEST).unlink()
    (tmp_path / "10.unfinished").touch()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(abstract(state(0))) is None
        assert "the run ended while it was written" in str(checkpoints.rejected[0])
        checkpoints.save(10, state(10), {})
    assert steps_on_disk(tmp_path) == [10]
    assert not (tmp_path / "10.unfinished").exists()


def test_what_a_killed_run_leaves_is_cleaned_up(two_steps, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(two_steps, directory)
    (directory / "20.unfinished").touch()  # killed after the manifest: the step is whole
    (directory / "10.unfinished").touch()  # killed while deleting
    (directory / "10" / MANIFEST).unlink()
    (directory / "30.orbax-checkpoint-tmp").mkdir()  # killed while writing
    (directory / "30.unfinished").touch()
    restored = restore(directory)
    assert_is_step(restored, 20)
    assert [rejected.step for rejected in restored.rejected] == [30]
    assert sorted(path.name for path in directory.iterdir()) == ["20"]
