"""A run's report: one HTML file that opens anywhere, with the numbers, the curves, and pictures of what was learnt.

`write_report` takes plain values (lines of `metrics.jsonl`, pictures as bytes, captions) and needs no model. The page
loads nothing from outside: pictures are data URIs, curves are inline SVG, and its content security policy forbids the
rest. The same input gives the same bytes.
"""

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageOps

from align_jax.files import replace_file

HEADLINES = tuple(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5))


@dataclass(frozen=True)
class RetrievedText:
    """A caption found for a picture; `correct` if it belongs to it."""

    text: str
    score: float
    correct: bool


@dataclass(frozen=True)
class ImageQuery:
    """A picture (an encoded file's bytes), its own caption, and the captions found for it, best first."""

    image: bytes
    caption: str
    retrieved: tuple[RetrievedText, ...]

    @property
    def first_is_correct(self) -> bool:
        """Whether the best of what was found is right."""
        return bool(self.retrieved) and self.retrieved[0].correct


@dataclass(frozen=True)
class RetrievedImage:
    """A picture found for a caption, with its own caption; `correct` if it belongs to the query."""

    image: bytes
    caption: str
    score: float
    correct: bool


@dataclass(frozen=True)
class TextQuery:
    """A caption and the pictures found for it, best first."""

    text: str
    retrieved: tuple[RetrievedImage, ...]

    @property
    def first_is_correct(self) -> bool:
        """Whether the best of what was found is right."""
        return bool(self.retrieved) and self.retrieved[0].correct


@dataclass(frozen=True)
class ZeroShotExample:
    """A picture, the label it has, and the probabilities given to labels, in the order to show."""

    image: bytes
    correct: str
    probabilities: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Report:
    """What the page shows; an empty part is left out of it.

    Attributes:
        title: heading of the page.
        summary: short facts by name, such as parameters, pairs, hardware and time.
        experiment: fields of the experiment, nested as they are.
        metrics: lines of `metrics.jsonl`, as `read_metrics` gives them.
        image_queries: captions found for pictures.
        text_queries: pictures found for captions.
        zero_shot: pictures classified by label texts.
        classified: pictures classified by a classifier.
    """

    title: str
    summary: Mapping[str, str]
    experiment: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    image_queries: Sequence[ImageQuery] = ()
    text_queries: Sequence[TextQuery] = ()
    zero_shot: Sequence[ZeroShotExample] = ()
    classified: Sequence[ZeroShotExample] = ()


def write_report(path: Path, report: Report) -> None:
    """Writes the page, atomically.

    A picture that does not decode is shown as such, and a non-finite number leaves a gap in its curve: the report of a
    run that went wrong is the one that matters.

    Args:
        path: the HTML file; its folder exists.
        report: what to show.
    """
    # StrictUndefined: a misspelt name in the template is an error and not an empty place.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(picture=_picture, number=_number)
    template = environment.from_string(files("align_jax.training").joinpath("report.html.jinja").read_text("utf-8"))
    evaluations = _evaluations(report.metrics)
    page = template.render(
        report=report,
        headlines=[_headline(name, curves) for name, curves in evaluations.items()],
        panels=list(_panels(report.metrics, evaluations)),
        evaluations=evaluations,
        experiment=list(_flatten(report.experiment)),
    )
    # Captions can hold half a surrogate pair, which has no UTF-8 form.
    replace_file(path, page.encode(errors="replace"))


def _picture(image: bytes) -> str | None:
    """A thumbnail's data URI, or None if it does not decode; decoding it anew also drops EXIF (places, names)."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as opened:
            thumbnail = ImageOps.exif_transpose(opened).convert("RGBA")
            thumbnail.thumbnail((256, 256))
            thumbnail.save(buffer, "WEBP", quality=88)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _number(value: float, key: str) -> str:
    if not math.isfinite(value):
        return str(value)
    is_share = any(word in key for word in ("recall", "accuracy", "share", "top1", "top5"))
    return f"{value:.1%}" if is_share else f"{value:.4g}"


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


# Curves. Points are (step, value); colours stand for CSS variables of the page, so that curves follow light and dark.

Points = list[tuple[int, float]]
INK, GRID, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
CSS_VARIABLES = {INK: "var(--muted)", GRID: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)"}


@dataclass(frozen=True)
class _Curve:
    label: str
    points: Points
    color: str = FIRST
    dashed: bool = False
    marker: str | None = None  # "o" or "s": curves differ in shape as well as in colour
    faint: bool = False

    @property
    def css_color(self) -> str:
        return CSS_VARIABLES[self.color]


@dataclass(frozen=True)
class _Panel:
    title: str
    legend: tuple[_Curve, ...]
    svg: Markup
    large: bool


def _points(metrics: Sequence[Mapping[str, Any]], key: str) -> Points:
    # float() also reads the "NaN" and "Infinity" of lines that did not come through read_metrics.
    points = [(line["step"], float(line[key])) for line in metrics if line.get(key) is not None]
    return [(step, value if math.isfinite(value) else math.nan) for step, value in points]


def _evaluations(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Curves by name of the evaluation and key, from keys `name/key`."""
    evaluations: dict[str, dict[str, Points]] = {}
    for key in dict.fromkeys(key for line in metrics for key in line if "/" in key):
        name, _, metric = key.rpartition("/")
        if points := _points(metrics, key):
            evaluations.setdefault(name, {})[metric] = points
    return evaluations


def _headline(name: str, curves: dict[str, Points]) -> dict[str, Any]:
    keys = [key for key in HEADLINES if key in curves] or list(islice(curves, 4))
    step = max(curves[key][-1][0] for key in keys)
    return {"name": name, "step": step, "numbers": [(key, _number(curves[key][-1][1], key)) for key in keys]}


def _panels(metrics: Sequence[Mapping[str, Any]], evaluations: dict[str, dict[str, Points]]) -> Iterator[_Panel]:
    loss = _points(metrics, "loss")
    if _is_shown(loss):
        curves = [_Curve("each step", loss, faint=True), _Curve("smoothed", _smooth(loss))]
        yield _panel("Training loss", curves, large=True)
    for name, by_key in evaluations.items():
        curves = [
            _Curve(
                label=key,
                points=by_key[key],
                color=FIRST if key.startswith("image") else SECOND,
                dashed=key.endswith("@5"),
                marker="o" if key.startswith("image") else "s",
            )
            for key in HEADLINES
            if _is_shown(by_key.get(key, []))
        ]
        if curves:
            yield _panel(f"Recall, {name}", curves, large=True, share=True)
        curves = [
            _Curve(key, by_key[key], color=color, marker=marker)
            for key, color, marker in (("top1", FIRST, "o"), ("top5", SECOND, "s"))
            if _is_shown(by_key.get(key, []))
        ]
        if curves:
            yield _panel(f"Accuracy, {name}", curves, large=True, share=True)
    for key, title, share in (
        ("learning_rate", "Learning rate", False),
        ("temperature", "Temperature", False),
        ("pairs_per_second", "Pairs per second", False),
        ("images_per_second", "Images per second", False),
        ("data_wait_share", "Time spent waiting for data", True),
        ("image_to_text_accuracy", "Accuracy within the training batch", True),
        ("accuracy", "Accuracy within the training batch", True),
        ("gradient_norm", "Gradient norm", False),
    ):
        points = _points(metrics, key)
        if _is_shown(points):
            yield _panel(title, [_Curve(title, points)], share=share)


def _is_shown(points: Points) -> bool:
    return any(not math.isnan(value) for _, value in points)


def _smooth(points: Points) -> Points:
    """A mean over about a thirtieth of the curve around each point; narrower at the ends, so that it does not lag."""
    smoothed = []
    for index, (step, _) in enumerate(points):
        reach = min(len(points) // 60, index, len(points) - 1 - index)
        around = [value for _, value in points[index - reach : index + reach + 1] if not math.isnan(value)]
        smoothed.append((step, fmean(around) if around else math.nan))
    return smoothed


def _panel(title: str, curves: list[_Curve], *, large: bool = False, share: bool = False) -> _Panel:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Text stays text: it takes the page's font, can be searched, and a dollar sign in a name is no formula.
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "align_jax", "text.parse_math": False})
        figure = Figure(figsize=(4.8, 2.7) if large else (3.2, 1.7), layout="constrained")
        _draw(figure.add_subplot(), curves, share=share)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in CSS_VARIABLES.items():
        svg = svg.replace(color, variable)
    # Several drawings share the page, so each one's identifiers get a name of its own.
    prefix = "".join(character for character in title.lower() if character.isalnum())
    for reference in ('id="', "url(#", 'href="#'):
        svg = svg.replace(reference, f"{reference}{prefix}-")
    label = Markup.escape(f"{title}: {'; '.join(_describe(curve) for curve in curves if not curve.faint)}")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return _Panel(title, tuple(curves) if len(curves) > 1 else (), Markup(svg), large)


def _describe(curve: _Curve) -> str:
    (first_step, first), *_, (last_step, last) = [*curve.points, curve.points[-1]]
    return f"{curve.label.replace('_', ' ')} from {first:.4g} at step {first_step} to {last:.4g} at step {last_step}"


def _draw(axes: Axes, curves: list[_Curve], *, share: bool) -> None:
    for curve in curves:
        axes.plot(
            *zip(*curve.points, strict=True),
            color=curve.color,
            alpha=0.3 if curve.faint else 1.0,
            linewidth=1.0 if curve.faint else 1.6,
            linestyle=(0, (4, 2)) if curve.dashed else "solid",
            marker=curve.marker or ("." if len(curve.points) == 1 else None),
            markersize=3.5,
            clip_on=False,
        )
    if share:
        axes.set_ylim(0, 1)
    elif 0 < axes.get_ylim()[0] < 0.6 * axes.get_ylim()[1]:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(1, *(step for curve in curves for step, _ in curve.points)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}" if share else f"{value:,.6g}"))
    axes.set_xlabel("step", color=INK, fontsize=8)
