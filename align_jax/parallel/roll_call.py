"""The roll call: which processes of a run are there, which have ended, and why.

The processes of a run stay connected to process 0 from before JAX starts until the end. So a process that does not come
is named on all the others, one that fails tells them why, and one that dies is noticed when its connection closes: JAX
itself would abort without a name at the start, and wait for a heartbeat that fails to come (100 s) later on.

Process 0 listens at the coordinator's own port, and stops listening before JAX needs that. Messages are JSON objects,
one a line, over TCP.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from align_jax.parallel.register import DistributedError, Register

_RETRY_SECONDS = 0.2
_GRACE_SECONDS = 2.0  # to end by itself, with an error of its own, once another process has failed


class RollCall:
    """One process's place in the roll; made when all processes are there.

    Args:
        address: `host:port` where process 0 listens.
        processes: how many belong to the run.
        process_id: which one this is.
        timeout_seconds: how long to wait for the others.

    Raises:
        DistributedError: if processes are missing after that time, which it names, or do not fit together.
    """

    def __init__(self, address: str, processes: int, process_id: int, timeout_seconds: float):
        self.process_id = process_id
        self._changed = threading.Condition()
        self._passed: set[str] = set()
        self._ended: str | None = None
        self._leaving = False
        self._register = Register(address, processes, timeout_seconds) if process_id == 0 else None
        hello = {"process": process_id, "of": processes, "host": socket.gethostname()}
        self._connection, self._lines, answer = _enlist(address, hello, timeout_seconds)
        self._receive(answer)
        if self._ended is not None:
            self._wait_for_the_others()
            self._close()
            raise DistributedError(self._ended)
        self._connection.settimeout(None)
        threading.Thread(target=self._listen, name="roll call", daemon=True).start()

    def barrier(self, name: str, timeout_seconds: float) -> None:
        """Returns when every process has called this with the same name.

        Raises:
            DistributedError: if some have not after the time that the first one gives; they are named.
        """
        self._send(arrives=name, seconds=timeout_seconds)
        with self._changed:
            self._changed.wait_for(lambda: name in self._passed or self._ended is not None)
            if name not in self._passed:
                raise DistributedError(str(self._ended))
            self._passed.remove(name)

    def finish(self, timeout_seconds: float) -> None:
        """Leaves together with the others, as the end of a run that went well."""
        self.barrier("the end", timeout_seconds)
        self._wait_for_the_others()  # the register, a thread of process 0, has to let them go first
        self._close()

    def fail(self, reason: str) -> None:
        """Tells the others why this process ends, and leaves; process 0 stays for the moment that they need."""
        self._send(fails=reason)
        self.reason_of_end(_GRACE_SECONDS)  # the message comes back, or has been lost
        self._wait_for_the_others()
        self._close()

    def reason_of_end(self, timeout_seconds: float) -> str | None:
        """Which process has ended, and why; waits for the news, and gives None if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None, timeout_seconds)
            return self._ended

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # what broke the connection is read from it
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, line: bytes) -> None:
        message = json.loads(line) if line else {"ends": "process 0 has ended without a word"}
        with self._changed:
            self._passed.update(message.get("passed", ()))
            self._ended = self._ended or message.get("ends")
            self._changed.notify_all()

    def _listen(self) -> None:
        """Ends this process when another one has, unless it does so by itself: it may hang in a collective."""
        while self._ended is None:
            try:
                line = self._lines.readline()
            except (OSError, ValueError):
                line = b""
            if self._leaving:
                return
            self._receive(line)
        if line:  # JAX aborts at once when process 0 is gone
            time.sleep(_GRACE_SECONDS)
            self._wait_for_the_others()
        if not self._leaving:
            print(f"align-jax: process {self.process_id} ends: {self._ended}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(1)

    def _wait_for_the_others(self) -> None:
        if self._register is not None:
            self._register.empty.wait(2 * _GRACE_SECONDS)

    def _close(self) -> None:
        self._leaving = True
        self._send(leaves=True)
        with contextlib.suppress(OSError):  # `close` alone would leave it open for as long as somebody reads from it
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _enlist(address: str, hello: dict[str, Any], timeout_seconds: float) -> tuple[socket.socket, Any, bytes]:
    """Connects to process 0 and waits for its answer; tries again as long as something else answers, or nothing.

    That may be process 0 of an earlier run, which ends because of the failure that this run has been started after.
    """
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + timeout_seconds
    while True:
        connection = None
        try:
            left = max(1.0, deadline - time.monotonic())
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
            connection.sendall(json.dumps(hello).encode() + b"\n")
            # Process 0 answers when its own time is over, which may have begun later.
            connection.settimeout(left + timeout_seconds + 10)
            lines = connection.makefile("rb")
            answer = lines.readline()
            json.loads(answer)
            connection.settimeout(None)
            return connection, lines, answer
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            if time.monotonic() > deadline:
                what = f"it answers, but not as process 0: {error}" if isinstance(error, ValueError) else str(error)
                raise DistributedError(
                    f"process 0 did not answer at {address} within {timeout_seconds:g} s ({what}); start it there, or "
                    "give the right --coordinator"
                ) from error
            time.sleep(_RETRY_SECONDS)
