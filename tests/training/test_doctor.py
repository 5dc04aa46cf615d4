import dataclasses

import jax
import pytest

from align_jax.cli import main
from align_jax.configuration import AlignConfig
from align_jax.training import doctor
from align_jax.training.doctor import examine
from align_jax.training.workdir import write_model_folder


@pytest.fixture(autouse=True)
def _usual_precision():
    with jax.default_matmul_precision(None):
        yield


def pretend_checkpoint(workdir):
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    (workdir / "checkpoints" / "5" / "SHA256SUMS").touch()


def faults(experiment, workdir):
    return {finding.subject: finding.text for finding in examine(experiment, workdir) if finding.status == "fault"}


def test_run_that_would_go_well_has_no_fault(experiment, tmp_path):
    found = list(examine(experiment, tmp_path / "run"))
    assert {finding.subject for finding in found} == {"devices", "precision", "mesh", "data", "folder"}
    assert {finding.status for finding in found} == {"ok"}
    words = " ".join(finding.text for finding in found)
    assert "8 x cpu" in words
    assert "4 of 32 pairs on a device" in words
    assert "64 pairs in discs, train; the run sees each 10.0 times" in words
    assert not (tmp_path / "run").exists()  # looking leaves nothing behind


def test_every_fault_is_found_and_not_only_the_first(experiment, tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    pretend_checkpoint(tmp_path)
    data = dataclasses.replace(experiment.data, train=dataclasses.replace(experiment.data.train, name="absent"))
    found = faults(dataclasses.replace(experiment, data=data, batch_size=36), tmp_path)
    assert found.keys() == {"mesh", "data", "folder"}
    assert "use 32 or 40" in found["mesh"]
    assert "absent" in found["data"]
    assert "is not an experiment" in found["folder"]


def test_folder_of_another_model_is_a_fault(experiment, tmp_path):
    write_model_folder(experiment, tmp_path)
    pretend_checkpoint(tmp_path)
    other = dataclasses.replace(
        experiment.task, model=AlignConfig.tiny(vision_config=experiment.task.model.vision_config)
    )
    assert "another model" in faults(dataclasses.replace(experiment, task=other), tmp_path)["folder"]


def test_batch_norm_that_crosses_devices_and_slow_types_are_notes(experiment, tmp_path):
    task = dataclasses.replace(experiment.task, batch_norm_group_size=16, dtype="bfloat16")
    notes = [
        finding.text
        for finding in examine(dataclasses.replace(experiment, task=task), tmp_path)
        if finding.status == "note"
    ]
    assert len(notes) == 2
    assert "slower than float32 on CPU" in notes[0]
    assert "batch norm takes 16 examples together, which 4 on a device cut through" in notes[1]


@pytest.mark.parametrize(
    ("bad", "sampled", "seen", "limit", "status"),
    [
        (1, 64, 100_000_000, 1_000_000, "note"),  # one of 64 is what a share of 1 % often gives
        (4, 64, 100_000_000, 1_000_000, "fault"),  # and four are not
        (4, 64, 64, 4, "note"),
        (4, 64, 64, 3, "fault"),  # more than allowed are there for sure
        (1, 64, 500_000, 0, "fault"),
        (30, 64, 64, 100, "fault"),  # the run bears them, and learns from half of the data
    ],
)
def test_bad_records_are_a_fault_once_a_run_would_end_or_lose_many(bad, sampled, seen, limit, status):
    found = doctor.bad_records(["record 7: it is cut"] * bad, sampled, seen, limit)
    assert found.status == status
    assert f"{bad} of {sampled} sampled records cannot be used, such as record 7: it is cut" in found.text


def test_command_says_what_is_wrong_and_ends_with_status_one(tmp_path, capsys):
    config = f"configs/openmoji.py:debug,data_dir={tmp_path}"
    assert main(["doctor", "--config", config, "--workdir", str(tmp_path / "run")]) == 1
    printed = capsys.readouterr().out
    assert "fault data" in printed
    assert "this run would fail" in printed
