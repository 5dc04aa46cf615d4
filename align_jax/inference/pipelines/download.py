"""Images from the web: http and https, limited in size and time, from public addresses unless others are asked for.

A name is looked up once, and the connection goes to the address that was checked; so is every address that a server
sends the request on to. Connections are direct: proxies are not used.
"""

import contextlib
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, urljoin, urlsplit

Urls = Literal["refuse", "public", "any"]
"""Which URLs are opened: none; those of public addresses; also those of this machine and of private networks."""

MAX_BYTES = 32 * 2**20
TIMEOUT_SECONDS = 10.0
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 2**16


class DownloadError(ValueError):
    """A URL is not opened, or does not give what was asked for."""


def is_url(text: str) -> bool:
    """Whether it has a scheme, of any kind, and so is no name of a file."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.isascii() and scheme.replace("+", "").replace("-", "").isalnum()


def download(
    url: str, *, urls: Urls = "public", max_bytes: int = MAX_BYTES, timeout_seconds: float = TIMEOUT_SECONDS
) -> bytes:
    """What a URL gives.

    Args:
        url: of http or https.
        urls: which addresses may be asked.
        max_bytes: of the answer.
        timeout_seconds: for all of it, redirections and the lookup of names included.

    Raises:
        DownloadError: if the URL is refused, cannot be had in time, or is too large.
    """
    results: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    fetch = _Fetch(urls, max_bytes, time.monotonic() + timeout_seconds)

    def work() -> None:
        try:
            results.put(fetch(url))
        except Exception as error:
            results.put(error)

    # A thread of its own: neither the lookup of names nor the reading of headers has a time limit for the whole.
    threading.Thread(target=work, daemon=True).start()
    try:
        result = results.get(timeout=timeout_seconds)
    except queue.Empty:
        fetch.give_up()
        result = TimeoutError()
    if isinstance(result, DownloadError):
        raise result
    if isinstance(result, TimeoutError):
        raise DownloadError(
            f"{_shown(url)} did not answer within {timeout_seconds:g} seconds; try again, or allow more"
        )
    if isinstance(result, Exception):
        raise DownloadError(f"{_shown(url)} cannot be had: {result or type(result).__name__}") from result
    return result


class _Fetch:
    """One download, from redirection to redirection."""

    def __init__(self, urls: Urls, max_bytes: int, deadline: float):
        self._urls, self._max_bytes, self._deadline = urls, max_bytes, deadline
        self._socket: socket.socket | None = None

    def __call__(self, url: str) -> bytes:
        first = url
        for _ in range(_MAX_REDIRECTS + 1):
            parts = _parse(url)
            with contextlib.closing(_connect(parts, self._urls, self._remaining)) as connection:
                self._socket = connection.sock
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "align-jax"})
                with contextlib.closing(connection.getresponse()) as response:
                    target = response.getheader("Location")
                    if response.status not in _REDIRECTS or target is None:
                        return self._read(response, url)
                    url = urljoin(url, target)
        raise DownloadError(f"{_shown(first)} leads from one address to another, more than {_MAX_REDIRECTS} times")

    def give_up(self) -> None:
        """Ends a transfer that runs in another thread."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self, response: http.client.HTTPResponse, url: str) -> bytes:
        if response.status != http.HTTPStatus.OK:
            raise DownloadError(f"{_shown(url)} answers {response.status} {response.reason}")
        content = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > self._max_bytes:
                raise DownloadError(f"{_shown(url)} is larger than {self._max_bytes:,} bytes; download it yourself")
            self._remaining()
        if response.length:  # bytes that were announced and never came
            raise DownloadError(f"{_shown(url)} ends {response.length:,} bytes too early")
        return bytes(content)

    def _remaining(self) -> float:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise DownloadError(f"{_shown(url)} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"{_shown(url)} is not of http or https; other URLs are not opened")
    if not all(character.isprintable() and character.isascii() and character != " " for character in url):
        raise DownloadError(f"{_shown(url)} has characters that no URL has; encode them as %XX")
    return parts


def _connect(parts: SplitResult, urls: Urls, remaining: Callable[[], float]) -> http.client.HTTPConnection:
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if urls != "any" and (inside := [address for address in addresses if not _is_public(address)]):
        raise DownloadError(
            f"{host} is {inside[0]}, an address of this machine or of a private network; such URLs are opened only "
            "where 'any' are allowed"
        )
    connection = (
        http.client.HTTPSConnection(host, port, context=ssl.create_default_context())
        if secure
        else http.client.HTTPConnection(host, port)
    )
    sock = _open(addresses, port, remaining)
    if secure:
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection.sock = sock
    return connection


def _open(addresses: list[str], port: int, remaining: Callable[[], float]) -> socket.socket:
    """A connection to the first of the addresses that takes one."""
    problem: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=remaining())
        except TimeoutError:
            raise
        except OSError as error:
            problem = error
    raise problem


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    found = found if mapped is None else mapped
    return found.is_global and not found.is_multicast


def _shown(url: str) -> str:
    return repr(url if len(url) <= 200 else f"{url[:199]}…")
