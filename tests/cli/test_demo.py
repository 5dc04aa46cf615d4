"""What ends `align-jax demo` before it serves anything: one line, and the exit status."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align_jax.cli import main
from tests.inference.tiny_align import write_folder

pytest.importorskip("gradio", reason="needs gradio")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("align"))


def told(capsys, *arguments) -> tuple[int, str]:
    status = main(["demo", *map(str, arguments)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    return status, line


def test_without_a_model_it_names_the_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, line = told(capsys)
    assert (status, "make quickstart" in line) == (2, True)


def test_what_is_not_there_is_named(model, tmp_path, capsys):
    for arguments in (("--model", tmp_path / "absent"), ("--model", model, "--index", tmp_path / "absent")):
        status, line = told(capsys, *arguments)
        assert status == 2
        assert str(tmp_path / "absent") in line


def test_a_port_that_cannot_be_used_is_named_before_the_model_is_loaded(tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, line = told(capsys, "--model", tmp_path / "absent", "--port", port)
    assert status == 1
    assert f"port {port}" in line
    assert told(capsys, "--port", "70000")[0] == 2


def test_it_leaves_nothing_behind_when_it_is_stopped_while_it_loads(model, tmp_path):
    command = [sys.executable, "-m", "align_jax", "demo", "--model", str(model)]
    environment = os.environ | {"XLA_FLAGS": "", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not (made := list(tmp_path.glob("align-jax-demo-*"))) and process.poll() is None:
            time.sleep(0.01)
        assert made
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, b"", b"")
    assert not list(tmp_path.glob("align-jax-demo-*"))
