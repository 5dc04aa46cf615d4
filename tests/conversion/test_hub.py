"""What is downloaded of a model on the Hub: against a small server that speaks its language."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
from safetensors.numpy import save

from align_jax.conversion.hub import is_model_id, needed_files

SMALL = ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.txt"]
OTHERS = ["README.md", ".gitattributes", "flax_model.msgpack", "onnx/model.safetensors", "onnx/config.json", "a.png"]
SAFETENSORS = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
PYTORCH = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
TENSORFLOW = ["checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"]
OURS = ["params/_METADATA", "params/ocdbt.process_0/d/0123"]


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        (["model.safetensors", *SAFETENSORS, "pytorch_model.bin", *TENSORFLOW], ["model.safetensors"]),
        ([*SAFETENSORS, "pytorch_model.bin", *OURS], SAFETENSORS),
        (["pytorch_model.bin", *PYTORCH, *TENSORFLOW], ["pytorch_model.bin"]),
        ([*PYTORCH, *TENSORFLOW], PYTORCH),
        ([*TENSORFLOW, *OURS], TENSORFLOW),
        (OURS, OURS),
        ([], []),
    ],
)
def test_one_form_of_the_weights_is_fetched_with_the_small_files(there, weights):
    assert needed_files([*OTHERS, *there, *SMALL]) == sorted([*SMALL, *weights])


@pytest.mark.parametrize("text", ["kakaobrain/align-base", "a/b", "0x/A_b.c-d"])
def test_ids_are_recognised(text):
    assert is_model_id(text)


@pytest.mark.parametrize(
    "text", ["a", "a/b/c", "/a/b", "./a", "../a", "a/", "a/..", "~/a", "a b/c", "a/b\n", "é/a", ""]
)
def test_paths_are_no_ids(text):
    assert not is_model_id(text)


COMMIT = "0123456789" * 4
FILES = {
    "config.json": b"{}",
    "model.safetensors": save({"w": np.arange(3.0)}),
    "pytorch_model.bin": b"the same again",
    "README.md": b"words",
}
MODELS = {"owner/name": FILES, "owner/bare": {"README.md": b"words"}, "owner/gone": {"lost.json": None}}


class Hub(http.server.BaseHTTPRequestHandler):
    """The model owner/name, in the pages that a download asks for."""

    asked: list[str]  # names of files

    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        model = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        name = path.rsplit("/", 1)[1]
        files = MODELS.get(model, {})
        if path in (f"/api/models/{model}", f"/api/models/{model}/revision/main") and files:
            self.answer(json.dumps({"id": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}))
        elif path == f"/api/models/{model}/tree/{COMMIT}":
            listed = [{"type": "file", "path": name, "size": len(files[name] or b""), "oid": "0"} for name in files]
            self.answer(json.dumps(listed))
        elif path.startswith(f"/{model}/resolve/{COMMIT}/") and files[name] is not None:
            if self.command == "GET":
                self.asked.append(name)
            self.answer(files[name])
        else:
            self.answer(json.dumps({"error": "not found"}), 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815  (the server's name for it)

    def answer(self, content: str | bytes, status: int = 200, more: dict[str, str] | None = None) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        etag = hashlib.sha256(content).hexdigest()
        headers = {"Content-Length": str(len(content)), "ETag": f'"{etag}"', "X-Repo-Commit": COMMIT} | (more or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None: ...


@pytest.fixture
def server():
    handler = type("Asked", (Hub,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler.asked
        running.shutdown()
        thread.join()


def open_elsewhere(tmp_path, endpoint: str, *sources: str) -> list[str]:
    """What another process, which may use the network, makes of each source."""
    script = """if True:
        import sys
        from align_jax.conversion.sources import SourceError, open_source
        for source in sys.argv[1:]:
            try:
                opened = open_source(source)
                print(opened.folder.name, opened.format, opened.tensors["w"].tolist())
            except SourceError as error:
                print(error)
    """
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    environment = os.environ | proxies | {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", script, *sources], env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def test_a_model_is_downloaded_once_and_opens_without_the_server_later(tmp_path, server):
    endpoint, asked = server
    found, absent, bare, gone = open_elsewhere(
        tmp_path, endpoint, "owner/name", "owner/other", "owner/bare", "owner/gone"
    )
    assert found == f"{COMMIT} safetensors [0.0, 1.0, 2.0]"
    assert sorted(asked) == ["config.json", "model.safetensors"]
    assert "owner/other is no file or folder here, and as a model on the Hub it cannot be had: 404" in absent
    assert bare == "the model owner/bare on the Hub holds no files that can be read"
    assert gone.startswith("the model owner/gone could not be downloaded: 404")
    nowhere = "http://127.0.0.1:9"  # the discard port, where nothing listens
    assert open_elsewhere(tmp_path, nowhere, "owner/name") == [found]
    (unreachable,) = open_elsewhere(tmp_path, nowhere, "owner/other")
    assert "owner/other is no file or folder here, and as a model on the Hub it cannot be had: " in unreachable
    assert len(asked) == 2
