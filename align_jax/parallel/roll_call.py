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
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

_RETRY_SECONDS = 0.2
_GRACE_SECONDS = 2.0  # to end by itself, with an error of its own, once another process has failed
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class DistributedError(RuntimeError):
    """The processes of a run do not come together, or one of them has ended."""


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
        deadline = time.monotonic() + timeout_seconds
        self._changed = threading.Condition()
        self._passed: set[str] = set()
        self._ended: str | None = None
        self._leaving = False
        self._register = _Register(address, processes, timeout_seconds) if process_id == 0 else None
        self._connection = _connect(address, deadline, timeout_seconds)
        self._lines = self._connection.makefile("rb")
        self._send(process=process_id, of=processes, host=socket.gethostname())
        # Process 0 answers when its own time is over, which began within the time of this one.
        self._connection.settimeout(timeout_seconds + 60)
        try:
            self._receive(self._lines.readline())
        except (OSError, ValueError) as error:
            self._ended = (
                f"what answers at {address} is not process 0 waiting for this run to start ({error}); end what is left "
                "of earlier runs, or give another port"
            )
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


class _Register(threading.Thread):
    """Process 0's list of all processes, itself among them; a thread that serves their connections.

    Attributes:
        empty: set when only process 0 is left.
    """

    def __init__(self, address: str, processes: int, timeout_seconds: float):
        super().__init__(name="register", daemon=True)
        self.empty = threading.Event()
        self._processes, self._timeout_seconds = processes, timeout_seconds
        self._connections: dict[socket.socket, bytes] = {}  # what came of a line that is not whole yet
        self._members: dict[int, tuple[socket.socket, str]] = {}  # process -> connection, host
        self._gone: set[int] = set()
        self._arrived: dict[str, tuple[set[int], float, float]] = {}  # barrier -> processes, limit, deadline
        self._ended = False
        self._selector = selectors.DefaultSelector()
        port = int(address.rsplit(":", 1)[1])
        try:
            if socket.has_dualstack_ipv6():
                self._listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            else:
                self._listener = socket.create_server(("", port))
        except OSError as error:
            raise DistributedError(f"process 0 cannot listen on port {port}: {error}; give another one") from error
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.start()

    def run(self) -> None:
        self._serve_until(lambda: len(self._members) == self._processes, time.monotonic() + self._timeout_seconds)
        self._selector.unregister(self._listener)
        self._listener.close()  # the port is JAX's from here on
        if len(self._members) < self._processes:
            missing = sorted(set(range(self._processes)) - set(self._members))
            self._end(
                f"{_named(missing)} of {self._processes} did not come within {self._timeout_seconds:g} s; "
                "start the same command on every host, or give --start-timeout more seconds"
            )
        if not self._ended:
            self._broadcast(passed=["the start"])
        self._serve_until(lambda: not self._connections, None)

    def _serve_until(self, done: Any, deadline: float | None) -> None:
        while not done() and not (self._ended and not self._connections):
            now = time.monotonic()
            deadlines = [limit for *_, limit in self._arrived.values()] + ([] if deadline is None else [deadline])
            for key, _ in self._selector.select(max(0.0, min(deadlines) - now) if deadlines else None):
                self._read(key.fileobj)
            if deadline is not None and (self._ended or time.monotonic() > deadline):
                return
            self._check_barriers()

    def _read(self, source: Any) -> None:
        if source is self._listener:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            self._selector.register(connection, selectors.EVENT_READ)
            self._connections[connection] = b""
            return
        try:
            received, how = source.recv(65536), "has ended without a word"
        except OSError as error:
            received, how = b"", f"cannot be reached ({error.strerror})"
        *lines, rest = (self._connections[source] + received).split(b"\n")
        self._connections[source] = rest
        for line in lines:
            self._hear(source, line)
        if not received:
            self._closed(source, how)

    def _hear(self, source: socket.socket, line: bytes) -> None:
        try:
            message = json.loads(line)
            process = next((number for number, (own, _) in self._members.items() if own is source), None)
            if process is None:
                self._enrol(source, message["process"], message["of"], message["host"])
            elif "arrives" in message:
                limit = message["seconds"]
                first = (set[int](), limit, time.monotonic() + limit)
                self._arrived.setdefault(message["arrives"], first)[0].add(process)
            elif "fails" in message:
                self._end(f"process {process} ({self._members[process][1]}) failed: {message['fails']}")
            elif "leaves" in message:
                self._gone.add(process)
        except (ValueError, KeyError, TypeError):  # something else that looks for open ports
            self._closed(source, "")

    def _enrol(self, source: socket.socket, process: int, processes: int, host: str) -> None:
        if processes != self._processes:
            self._end(f"process {process} ({host}) is one of {processes}, process 0 one of {self._processes}", source)
        elif process in self._members:
            hosts = f"{self._members[process][1]} and {host}"
            self._end(f"two processes ({hosts}) say that they are process {process}; number each differently", source)
        else:
            self._members[process] = source, host

    def _closed(self, source: socket.socket, how: str) -> None:
        if self._connections.pop(source, None) is None:
            return
        self._selector.unregister(source)
        source.close()
        for process, (own, host) in list(self._members.items()):
            if own is source and len(self._members) < self._processes:
                del self._members[process]  # it may be started again in time
            elif own is source and process not in self._gone:
                self._gone.add(process)
                self._end(f"process {process} ({host}) {how}; the same command continues from the last checkpoint")
        if len(self._connections) <= 1 and (self._ended or self._gone):
            self.empty.set()

    def _check_barriers(self) -> None:
        for name, (arrived, limit, deadline) in list(self._arrived.items()):
            if len(arrived) == self._processes:
                del self._arrived[name]
                self._broadcast(passed=[name])
            elif time.monotonic() > deadline:
                del self._arrived[name]
                missing = [number for number in range(self._processes) if number not in arrived]
                self._end(f"{_named(missing, self._members)} did not reach {name!r} within {limit:g} s")

    def _end(self, reason: str, *others: socket.socket) -> None:
        if not self._ended:
            self._ended = True
            self._broadcast(*others, ends=reason)

    def _broadcast(self, *others: socket.socket, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        for connection in [own for own, _ in self._members.values()] + list(others):
            with contextlib.suppress(OSError):  # its end is read from it
                connection.sendall(line)


def _connect(address: str, deadline: float, timeout_seconds: float) -> socket.socket:
    host, port = address.rsplit(":", 1)
    while True:
        try:
            return socket.create_connection(
                (host.strip("[]"), int(port)), timeout=max(1.0, deadline - time.monotonic())
            )
        except OSError as error:
            if time.monotonic() > deadline:
                raise DistributedError(
                    f"process 0 did not answer at {address} within {timeout_seconds:g} s ({error}); start it there, "
                    "or give the right --coordinator"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _named(processes: Iterable[int], members: dict[int, tuple[socket.socket, str]] | None = None) -> str:
    """`process 1 (host-b), process 3 (host-d)`, twenty at most."""
    names = [f"process {number}" + (f" ({members[number][1]})" if members else "") for number in processes]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
