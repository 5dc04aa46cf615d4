import io
import math
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from align_jax.training.report import (
    ImageQuery,
    Report,
    RetrievedImage,
    RetrievedText,
    TextQuery,
    ZeroShotExample,
    write_report,
)

HOSTILE = "<script>alert('1')</script> \"quoted\" & ${x} {{ y }} \ud83d"


def picture(color="red", size=(20, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def full_report() -> Report:
    metrics = [{"step": step, "loss": 6.0 / step, "pairs_per_second": 600.0} for step in range(1, 60)]
    metrics += [{"step": 30, "val/image_to_text_recall@1": 0.111, "val/text_to_image_recall@5": 0.222}]
    metrics += [{"step": 59, "val/image_to_text_recall@1": 0.523, "val/text_to_image_recall@5": 0.871}]
    image = picture()
    return Report(
        title="A run",
        summary={"Parameters": "1,234"},
        experiment={"seed": 7, "optimizer": {"peak_learning_rate": 0.003, "names": ["a"]}, "note": HOSTILE},
        metrics=metrics,
        image_queries=[
            ImageQuery(image, HOSTILE, (RetrievedText("a cat", 0.91, True), RetrievedText("a dog", 0.5, False)))
        ],
        text_queries=[TextQuery("a cat", (RetrievedImage(image, HOSTILE, 0.91, False),))],
        zero_shot=[ZeroShotExample(image, "a cat", (("a dog", 0.75), ("a cat", 0.25)))],
    )


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(tmp_path, report: Report) -> tuple[str, Page]:
    path = tmp_path / "report.html"
    write_report(path, report)
    html = path.read_text()
    page = Page(html)
    assert page.open == []
    return html, page


def test_headline_shows_the_last_numbers(tmp_path):
    html, _ = write(tmp_path, full_report())
    headlines = re.findall(r"<b>(.*?)</b><span>(.*?)</span>", html)
    assert headlines == [("52.3%", "image → text recall@1"), ("87.1%", "text → image recall@5")]
    assert "Measured at step 59" in html


def test_captions_are_text_and_never_markup(tmp_path):
    html, page = write(tmp_path, full_report())
    assert not any(tag == "script" for tag, _ in page.tags)
    assert html.count("&lt;script&gt;") >= 5
    assert "<script>alert('1')</script>" in page.text


def test_nothing_is_loaded_from_outside(tmp_path):
    html, page = write(tmp_path, full_report())
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                assert value.startswith(("data:", "#")), (tag, name, value)
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    # The names of the SVG namespaces are the only addresses; a browser does not load them.
    assert set(re.findall(r"https?://[^\"]*", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_right_and_wrong_are_said_in_words(tmp_path):
    _, page = write(tmp_path, full_report())
    marks = re.findall(r"a cat|a dog|right|wrong", page.text.split("Which captions")[1].split("Text → image")[0])
    assert marks[-4:] == ["a cat", "right", "a dog", "wrong"]
    zero_shot = re.findall(r"a cat|a dog|right|wrong|[\d.]+%", page.text.split("Zero-shot classification")[1])
    assert zero_shot[:6] == ["a dog", "wrong", "75.0%", "a cat", "right", "25.0%"]


def test_every_picture_and_curve_has_a_text_instead(tmp_path):
    _, page = write(tmp_path, full_report())
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(attributes["alt"] for attributes in pictures)
    assert all(attributes["src"].startswith("data:image/webp;base64,") for attributes in pictures)
    drawings = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert drawings[0].startswith("Training loss: smoothed from 6 at step 1 to ")
    assert len(drawings) == 3


def test_the_same_run_gives_the_same_bytes(tmp_path):
    assert write(tmp_path, full_report())[0] == write(tmp_path, full_report())[0]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_curves_do_not_share_identifiers(tmp_path):
    _, page = write(tmp_path, full_report())
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_an_empty_run_still_gives_a_page(tmp_path):
    html, page = write(tmp_path, Report(title="Nothing yet", summary={}, experiment={}))
    assert "No evaluation has been recorded yet." in html
    assert not any(tag in {"img", "figure", "article"} for tag, _ in page.tags)


def test_a_diverged_run_still_gives_a_page(tmp_path):
    metrics = [{"step": step, "loss": loss} for step, loss in enumerate([3.0, math.nan, math.inf, "NaN"])]
    metrics += [{"step": 0, "val/recall": math.nan, "val/none": None, "val/other": "Infinity"}]
    html, _ = write(tmp_path, Report("Diverged", {}, {}, metrics))
    assert "Training loss: smoothed from 3 at step 0 to nan at step 3" in html


def test_a_single_line_at_step_zero_gives_a_page(tmp_path):
    html, _ = write(tmp_path, Report("Short", {}, {}, [{"step": 0, "loss": 3.0, "val/image_to_text_recall@1": 0.0}]))
    assert html.count("<figure") == 2


def test_other_evaluations_than_recall_have_their_headline(tmp_path):
    html, _ = write(tmp_path, Report("ViT", {}, {}, [{"step": 5, "imagenet/top_1_accuracy": 0.841}]))
    assert "<b>84.1%</b><span>top 1 accuracy</span>" in html


def test_a_picture_that_does_not_decode_is_said_to_be_so(tmp_path):
    whole = picture()
    queries = [ImageQuery(image, "a cat", ()) for image in (b"", b"nonsense", whole[: len(whole) // 2])]
    html, _ = write(tmp_path, Report("Pictures", {}, {}, image_queries=queries))
    assert html.count("picture does not decode") == 3


def test_a_large_picture_becomes_a_thumbnail(tmp_path):
    query = ImageQuery(picture(size=(3000, 1500)), "large", ())
    html, _ = write(tmp_path, Report("Pictures", {}, {}, image_queries=[query]))
    assert len(html) < 30_000


def test_every_field_of_the_experiment_is_listed(tmp_path):
    html, _ = write(tmp_path, full_report())
    rows = re.findall(r'<th scope="row">(.*?)</th><td class="value">(.*?)</td>', html)
    assert [name for name, _ in rows] == ["seed", "optimizer.peak_learning_rate", "optimizer.names", "note"]
    assert rows[1][1] == "0.003"


def test_a_failed_write_keeps_the_old_page(tmp_path):
    write(tmp_path, full_report())
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path / "report.html", Report("Bad", {}, {}, [{"step": 1, "loss": []}]))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
