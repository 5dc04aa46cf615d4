import socket
import threading

import pytest

from align_jax.parallel import roll_call
from align_jax.parallel.register import DistributedError
from tests.processes import free_port, run_together

SCRIPT = """
import os, sys, time
from pathlib import Path
from align_jax.parallel.register import DistributedError
from align_jax.parallel.roll_call import RollCall

address, processes, process_id, seconds, action = sys.argv[1:]
roll = None
try:
    roll = RollCall(address, int(processes), int(process_id), float(seconds))
    exec(action)
    roll.finish(60)
except (DistributedError, ValueError) as error:
    print(f"{type(error).__name__}: {error}")
    if roll:
        roll.fail(f"{error}")
    os._exit(1)
"""


def call(*members, seconds=60.0, address=None):
    """Runs processes, each given as (processes, process id, action), and returns how they ended."""
    address = address or f"127.0.0.1:{free_port()}"
    arguments = [["-c", SCRIPT, address, str(of), str(number), str(seconds), action] for of, number, action in members]
    return run_together(arguments, devices=1, limit_seconds=90)


def test_processes_come_together_and_leave_together(tmp_path):
    """What one does before a barrier is there for the others after it, time after time."""
    early = f"""
for turn in range(2):
    roll.barrier("turn", 60)
    assert Path(r"{tmp_path}", str(turn)).exists()
"""
    late = f"""
for turn in range(2):
    time.sleep(0.3)
    Path(r"{tmp_path}", str(turn)).touch()
    roll.barrier("turn", 60)
"""
    found = call((3, 0, early), (3, 1, late), (3, 2, early))
    assert [process.status for process in found] == [0, 0, 0], [process.output + process.errors for process in found]


def test_missing_process_is_named_on_all_others():
    for process in call((4, 0, ""), (4, 2, ""), seconds=3):
        assert process.status == 1
        assert "process 1, process 3 of 4 did not come within 3 s" in process.output


def test_missing_process_0_is_named():
    (process,) = call((2, 1, ""), seconds=1)
    assert process.status == 1
    assert "process 0 did not answer at 127.0.0.1:" in process.output


@pytest.mark.parametrize("dead", [0, 1])
def test_process_that_dies_is_named_on_all_others(dead):
    actions = ["time.sleep(60)"] * 3
    actions[dead] = "roll.barrier('all', 60); os.kill(os.getpid(), 9)"
    actions = [
        action if number == dead else f"roll.barrier('all', 60); {action}" for number, action in enumerate(actions)
    ]
    for number, process in enumerate(call(*((3, number, action) for number, action in enumerate(actions)))):
        if number != dead:
            assert process.status == 1
            assert process.errors.startswith(f"align-jax: process {number} ends: process {dead}")
            assert "has ended without a word" in process.errors


def test_process_that_fails_tells_the_others_why():
    first, second = call((2, 0, "time.sleep(60)"), (2, 1, "raise ValueError('no such data set')"))
    assert (first.status, second.status) == (1, 1)
    assert "failed: no such data set" in first.errors
    assert first.errors.startswith("align-jax: process 0 ends: process 1 (")
    assert second.output == "ValueError: no such data set\n"
    assert second.errors == ""


def test_process_that_does_not_reach_a_barrier_is_named():
    first, second = call((2, 0, "roll.barrier('data', 1)"), (2, 1, "time.sleep(60)"))
    assert (first.status, second.status) == (1, 1)
    assert first.output.startswith("DistributedError: process 1 (")
    assert "did not reach 'data' within 1 s" in first.output


def test_processes_that_were_started_for_different_numbers_are_refused():
    for process in call((2, 0, ""), (3, 1, "")):
        assert process.status == 1
        assert "is one of 3, process 0 one of 2" in process.output


def test_two_processes_with_one_number_are_refused():
    found = call((3, 0, ""), (3, 1, ""), (3, 1, ""))
    assert [process.status for process in found] == [1, 1, 1]
    assert sum("say that they are process 1" in process.output for process in found) >= 2


def test_something_else_at_the_address_is_told_apart():
    """A server of another kind. What is left of an earlier run goes away, so it is asked until the time is over."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            while True:
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(1000))
                    if asked[-1] == b"stop":
                        return
                    connection.sendall(b"\x00\x00\x12\x04\x00\xff\n")

        thread = threading.Thread(target=answer)
        thread.start()
        (process,) = call((2, 1, ""), seconds=2, address=f"127.0.0.1:{listener.getsockname()[1]}")
        with socket.create_connection(listener.getsockname()) as stop:
            stop.sendall(b"stop")
        thread.join()
    assert process.status == 1
    assert "within 2 s (it answers, but not as process 0: " in process.output
    assert len(asked) > 2


def test_process_0_that_is_started_again_in_time_is_found():
    """A process keeps calling when the process 0 that it had reached goes away before all were there."""
    address = f"127.0.0.1:{free_port()}"
    first = "import os, threading, time; threading.Timer(2.0, lambda: os._exit(9)).start(); time.sleep(0.5);"
    again = "import time; time.sleep(6);"
    arguments = [
        ["-c", first + SCRIPT, address, "3", "0", "60", ""],
        ["-c", SCRIPT, address, "3", "1", "60", ""],
        ["-c", again + SCRIPT, address, "3", "0", "60", ""],
        ["-c", again + SCRIPT, address, "3", "2", "60", ""],
    ]
    found = run_together(arguments, devices=1, limit_seconds=90)
    assert [process.status for process in found] == [9, 0, 0, 0], [process.output for process in found]


def test_process_0_is_told_what_went_wrong_before_it_had_joined_itself(monkeypatch):
    address, enlist, answers = f"127.0.0.1:{free_port()}", roll_call._enlist, []

    def enlist_late(*arguments):
        stranger.join()
        return enlist(*arguments)

    def come_too_early():
        connection, _, answer = enlist(address, {"process": 1, "of": 3, "host": "other"}, 10.0)
        answers.append(answer)
        connection.close()

    monkeypatch.setattr(roll_call, "_enlist", enlist_late)
    stranger = threading.Thread(target=come_too_early)
    stranger.start()
    with pytest.raises(DistributedError, match=r"process 1 \(other\) is one of 3, process 0 one of 2"):
        roll_call.RollCall(address, 2, 0, 20.0)
    assert len(answers) == 1
