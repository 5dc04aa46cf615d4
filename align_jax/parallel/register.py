"""Process 0's list of all processes of a run: who is there, who has come to which barrier, who has ended.

The other side of `parallel/roll_call.py`, which says what it is for.
"""

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class DistributedError(RuntimeError):
    """The processes of a run do not come together, or one of them has ended."""


class Register(threading.Thread):
    """The list, process 0 itself on it; a thread that serves their connections.

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
        self._ended: str | None = None  # why
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
        self._serve_until(self._is_started, time.monotonic() + self._timeout_seconds)
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

    def _is_started(self) -> bool:
        """Whether all are there, or it is known that they will not be; process 0 itself may come last, and be told."""
        return len(self._members) == self._processes or (self._ended is not None and 0 in self._members)

    def _serve_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        while not done() and not (self._ended and 0 in self._members and not self._connections):
            now = time.monotonic()
            deadlines = [limit for *_, limit in self._arrived.values()] + ([] if deadline is None else [deadline])
            for key, _ in self._selector.select(max(0.0, min(deadlines) - now) if deadlines else None):
                self._read(key.fileobj)
            if deadline is not None and time.monotonic() > deadline:
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
        if self._ended is not None:
            self._members[process] = source, host
            self._broadcast(ends=self._ended)
        elif processes != self._processes:
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
        if self._ended is None:
            self._ended = reason
            self._broadcast(*others, ends=reason)

    def _broadcast(self, *others: socket.socket, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        for connection in [own for own, _ in self._members.values()] + list(others):
            with contextlib.suppress(OSError):  # its end is read from it
                connection.sendall(line)


def _named(processes: Iterable[int], members: dict[int, tuple[socket.socket, str]] | None = None) -> str:
    """`process 1 (host-b), process 3 (host-d)`, twenty at most."""
    names = [f"process {number}" + (f" ({members[number][1]})" if members else "") for number in processes]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
