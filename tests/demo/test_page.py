"""The page in a browser: headless Chromium clicks through what a visitor does, and through what goes wrong."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from align_jax import pipeline
from align_jax.cli import main
from align_jax.demo.uploads import MAX_UPLOAD_BYTES
from align_jax.inference.embedder import Embedder
from align_jax.inference.search import combine
from tests.inference.tiny_align import write_folder
from tests.inference.tiny_classifiers import write_vit

pytest.importorskip("gradio", reason="needs gradio")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1180,1000",
]  # fmt: skip
PATIENCE_SECONDS = 60
TABS = ["Search", "Classify by names", "Image classifier"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, a classifier, pictures, their embeddings, and files that are unusual or refused."""
    folder, rng = tmp_path_factory.mktemp("demo"), np.random.default_rng(0)
    write_folder(folder / "model")
    write_vit(folder / "classifier")
    (folder / "pictures").mkdir()
    for number in range(6):
        pixels = np.clip(rng.normal(40 * number, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"picture-{number}.png")
    (folder / "pictures" / "broken.png").write_bytes(b"no image")
    command = ["embed", "--model", folder / "model", "--input", folder / "pictures", "--output", folder / "index"]
    assert main([*map(str, command), "--batch-size", "8"]) == 0
    (folder / "large.png").write_bytes(b"x" * (MAX_UPLOAD_BYTES + 1))
    (folder / "broken.png").write_bytes((folder / "pictures" / "picture-0.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (6000, 6000)).save(folder / "huge.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn
    unusual = Image.new("CMYK", (40, 20), (0, 200, 0, 0))
    unusual.paste((200, 0, 0, 0), (0, 0, 10, 20))
    unusual.save(folder / "rotated.png", "JPEG", exif=exif)
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """The page, served by the command in a process of its own."""
    command = [sys.executable, "-m", "align_jax", "demo", "--model", folder / "model", "--index", folder / "index"]
    command += ["--classifier", folder / "classifier"]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    before = {"log", *(one.name for one in folder.iterdir())}
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://127.0.0.1:" not in line:
            process.kill()
            pytest.fail((folder / "log").read_text())
        yield next(word for word in line.split() if word.startswith("http")).rstrip(";")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not [one.name for one in folder.iterdir() if one.name not in before]  # nothing temporary is left behind
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def page(browser, address) -> Any:
    browser.get(address)
    until(lambda: find(browser, "#search-text textarea"))
    return browser


@pytest.fixture(scope="module")
def embedder(folder) -> Embedder:
    return Embedder.from_pretrained(folder / "model", batch_size=8)


def until(condition: Callable[[], Any]) -> Any:
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(WebDriverException):
            if result := condition():
                return result
        time.sleep(0.1)
    return pytest.fail("it did not come in time")


def find(page, selector):
    return page.find_elements("css selector", selector)


def upload(page, where, file):
    page.find_element("css selector", f"{where} input[type=file]").send_keys(str(file))


def write(page, where, text):
    box = page.find_element("css selector", f"{where} textarea, {where} input")
    box.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE, text)  # as `clear` goes by unnoticed


def open_tab(page, name):
    next(tab for tab in find(page, "button[role=tab]") if tab.text == name).click()


def click(page, where):
    page.find_element("css selector", where).click()


def captions(page) -> list[str]:
    return [one.text for one in find(page, "#found .caption-label")]


def shares(page, where) -> list[tuple[str, str]]:
    """Classes and their percentages, as the bars show them."""
    shown = until(lambda: [one.text.split() for one in find(page, f"{where} .confidence-set")])
    return [(" ".join(words[:-1]), words[-1]) for words in shown]


def message(page) -> str:
    texts = until(lambda: [one.text for one in find(page, ".toast-body") if one.text.strip()])
    return " ".join(texts[0].split())


def ranked(folder, embedder, **query) -> list[str]:
    """What the page has to show."""
    names = [f"picture-{number}.png" for number in range(6)]
    scores = embedder.images([folder / "pictures" / name for name in names]) @ combine(**query)
    return [f"{names[row]} · {scores[row]:.2f}" for row in np.argsort(-scores, kind="stable")]


def test_the_page_comes_from_this_machine_alone(page, address):
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert all(url.startswith((address, "data:", "blob:")) for url in loaded)
    assert [tab.text for tab in find(page, "button[role=tab]")] == TABS


def test_search_by_text_by_image_and_by_both(page, folder, embedder):
    text, image = embedder.texts(["a cat"])[0], embedder.images([folder / "pictures" / "picture-3.png"])[0]
    write(page, "#search-text", "a cat")
    click(page, "#search-button")
    until(lambda: captions(page) == ranked(folder, embedder, text=text))
    upload(page, "#search-image", folder / "pictures" / "picture-3.png")
    until(lambda: find(page, "#search-image img"))
    click(page, "#search-button")
    until(lambda: captions(page) == ranked(folder, embedder, text=text, image=image))
    write(page, "#search-text", "")
    click(page, "#search-button")
    until(lambda: captions(page) == ranked(folder, embedder, image=image))
    assert captions(page)[0] == "picture-3.png · 1.00"
    thumbnails = until(lambda: find(page, "#found img"))
    until(lambda: all(one.get_property("naturalWidth") == 40 for one in thumbnails))


def test_a_text_is_subtracted(page, folder, embedder):
    text, minus = embedder.texts(["a cat", "the mat"])
    write(page, "#search-text", "a cat")
    next(one for one in find(page, "button.label-wrap") if one.text.startswith("More")).click()
    until(lambda: any(box.is_displayed() for box in find(page, "#search-minus textarea")))
    write(page, "#search-minus", "the mat")
    click(page, "#search-button")
    expected = ranked(folder, embedder, text=text, minus=minus)
    assert expected != ranked(folder, embedder, text=text)
    until(lambda: captions(page) == expected)
    write(page, "#search-minus", "a cat")
    click(page, "#search-button")
    assert "are the same" in message(page)


def test_an_example_is_asked_when_it_is_clicked(page):
    until(lambda: [one for one in find(page, "button.gallery-item") if one.is_displayed()])[0].click()
    until(lambda: captions(page)[:1] == ["picture-0.png · 1.00"])


def test_classify_by_names(page, folder):
    open_tab(page, "Classify by names")
    upload(page, "#names-image", folder / "pictures" / "picture-1.png")
    until(lambda: find(page, "#names-image img"))
    write(page, "#names-labels", "cat, dog, mat")
    write(page, "#names-template", "a {}")
    click(page, "#names-button")
    expected = pipeline("zero-shot-image-classification", folder / "model")(
        folder / "pictures" / "picture-1.png", candidate_labels=["cat", "dog", "mat"], hypothesis_template="a {}"
    )
    assert shares(page, "#names-result") == [(each["label"], f"{100 * each['score']:.0f}%") for each in expected]


def test_classify_by_a_classifier(page, folder):
    open_tab(page, "Image classifier")
    upload(page, "#classifier-image", folder / "pictures" / "picture-1.png")
    until(lambda: find(page, "#classifier-image img"))
    click(page, "#classifier-button")
    found = pipeline("image-classification", folder / "classifier")(folder / "pictures" / "picture-1.png", top_k=5)
    expected: dict[str, str] = {}
    for each in found:  # two of the classes have one name
        expected.setdefault(each["label"], f"{100 * each['score']:.0f}%")
    assert shares(page, "#classifier-result") == list(expected.items())


def test_an_unusual_image_is_taken(page, folder, embedder):
    upload(page, "#search-image", folder / "rotated.png")
    until(lambda: find(page, "#search-image img"))
    click(page, "#search-button")
    until(lambda: captions(page) == ranked(folder, embedder, image=embedder.images([folder / "rotated.png"])[0]))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("large.png", "size"),
        ("huge.png", "25 million pixels"),
        ("broken.png", "damaged"),
        ("empty.png", "not an image"),
    ],
)
def test_an_upload_that_is_refused_says_why(page, folder, file, expected):
    upload(page, "#search-image", folder / file)
    if file != "large.png":
        until(lambda: find(page, "#search-image img"))
        click(page, "#search-button")
    assert expected in message(page)
    assert "Traceback" not in page.page_source


def test_a_question_that_makes_no_sense_says_why(page):
    click(page, "#search-button")
    assert "Write what you are looking for" in message(page)
    open_tab(page, "Classify by names")
    write(page, "#names-labels", ", ,")
    click(page, "#names-button")
    until(lambda: "Name some classes" in " ".join(one.text for one in find(page, ".toast-body")))
