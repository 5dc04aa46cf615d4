"""Downloads from a server of our own: limits, redirections, and addresses that are not opened."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from align_jax.inference.pipelines.download import DownloadError, _is_public, download, is_url

CONTENT = bytes(range(256)) * 20


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.partition("?")[0]
        if kind == "/picture":
            self.answer(200, CONTENT)
        elif kind == "/moved":
            self.answer(302, b"", {"Location": "/picture?again"})
        elif kind == "/circle":
            self.answer(307, b"", {"Location": "/circle"})
        elif kind == "/file":
            self.answer(302, b"", {"Location": "file:///etc/passwd"})
        elif kind == "/cut":
            self.answer(200, CONTENT[:100], {"Content-Length": str(len(CONTENT))})
        elif kind == "/endless":
            self.answer(200, b"", {"Content-Length": str(2**40)})
            for _ in range(1000):
                self.wfile.write(bytes(2**16))
        elif kind == "/slow":
            self.answer(200, b"", {"Content-Length": "1000"})
            for _ in range(1000):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.answer(404, b"")

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *arguments: object) -> None:
        pass  # clients that leave in the middle are the point of some tests


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_content_comes_whole_also_from_another_place(server: str) -> None:
    assert download(f"{server}/picture", urls="any") == CONTENT
    assert download(f"{server}/moved", urls="any") == CONTENT


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent", "answers 404"),
        ("/circle", "more than 5 times"),
        ("/file", "not of http or https"),
        ("/cut", "too early"),
        ("/endless", "larger than 1,000,000 bytes"),
    ],
)
def test_what_is_not_there_or_too_much_is_refused(server: str, path: str, reason: str) -> None:
    with pytest.raises(DownloadError, match=reason):
        download(f"{server}{path}", urls="any", max_bytes=1_000_000)


def test_the_time_limit_is_for_the_whole(server: str) -> None:
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"within 0\.3 seconds"):
        download(f"{server}/slow", urls="any", timeout_seconds=0.3)
    assert time.monotonic() - start < 30  # and not the 50 seconds that all of it takes


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DownloadError, match="did not answer"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/", urls="any", timeout_seconds=0.2)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "10.1.2.3", "169.254.169.254", "[::ffff:10.0.0.1]"]
)
def test_addresses_inside_are_not_asked(host: str) -> None:
    with pytest.raises(DownloadError, match="private network"):
        download(f"http://{host}:9/", urls="public")


def test_public_addresses_are_told_from_others() -> None:
    assert _is_public("93.184.216.34")
    assert _is_public("2606:2800:220:1:248:1893:25c8:1946")
    for address in ("0.0.0.0", "224.0.0.1", "fe80::1%eth0", "2002:7f00:0001::", "192.168.0.1", "100.64.0.1"):
        assert not _is_public(address), address


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "http://", "http://a:b/", "http://a/b c"])
def test_other_urls_are_refused(url: str) -> None:
    assert is_url(url)
    with pytest.raises(DownloadError, match=r"not of http|not a URL|characters"):
        download(url)


def test_names_of_files_are_no_urls() -> None:
    assert not any(map(is_url, ["cat.jpg", "/a//b", "data:image/png;base64,aGk=", "http_host.png", ""]))
