"""The page: its tabs, examples and looks. Every error of an answer is a message in the page."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio

from align_jax.demo.answers import USUAL_COUNT, Answers, QuestionError
from align_jax.demo.examples import Examples, blank
from align_jax.demo.uploads import UploadError

_DOT = "\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}"
CSS = """
.gradio-container { width: 100%; max-width: 1120px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.02em; margin-bottom: 0; }
#title p { color: var(--body-text-color-subdued); margin-top: 0.2rem; }
#found:has(.thumbnail-item) { background: transparent; }
#found .grid-wrap { max-height: none; overflow: visible; padding: 0; }
#found .grid-container { padding: 0; grid-auto-rows: auto; gap: 12px; }
#found .thumbnail-item { display: flex; flex-direction: column; aspect-ratio: auto; height: 100%; overflow: hidden;
  background: white; }
#found .thumbnail-item img { aspect-ratio: 1; height: auto; padding: 8px; object-fit: contain; }
#found .caption-label { position: static; flex-grow: 1; max-width: none; width: 100%; margin: 0; padding: 6px 10px 8px;
  border: 0; border-radius: 0; background: #f8fafc; color: #334155; font-size: 0.8rem; line-height: 1.25;
  white-space: normal; text-align: left; overflow-wrap: anywhere; }
footer { display: none !important; }
"""
THEME = gradio.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    # Fonts of the visitor's machine: nothing is loaded from elsewhere.
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
).set(
    background_fill_primary="*neutral_50",  # as Soft has it, which `set` forgets
    body_text_color_subdued="*neutral_500",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_shadow="none",
    block_label_text_color="*body_text_color_subdued",
    block_label_text_color_dark="*body_text_color_subdued",
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_padding="0",
    block_title_text_color="*body_text_color_subdued",
    block_title_text_color_dark="*body_text_color_subdued",
)


def build(answers: Answers, examples: Examples, model: str) -> gradio.Blocks:
    """The page.

    Args:
        answers: what it asks.
        examples: that visitors can click on.
        model: what the page calls the model.
    """
    with gradio.Blocks(title="align_jax", analytics_enabled=False) as page:
        gradio.Markdown(f"# align_jax\nImages and texts in one space, by ALIGN. Model: `{model}`", elem_id="title")
        with gradio.Tabs():
            if answers.pictures is not None:
                with gradio.Tab("Search", id="search"):
                    _search(answers, examples)
            with gradio.Tab("Classify by names", id="names"):
                _by_names(answers, examples)
            if answers.has_classifier:
                with gradio.Tab("Image classifier", id="classifier"):
                    _by_classifier(answers, examples)
    return page


def _search(answers: Answers, examples: Examples) -> None:
    assert answers.pictures is not None
    gradio.Markdown(
        f"Finds among {len(answers.pictures.captions):,} pictures ({answers.pictures.name}) by text, by image, or by "
        "both. A text counts twice as much as an image."
    )
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=2, min_width=280):
            text = gradio.Textbox(label="Text", placeholder="what you look for", elem_id="search-text", max_lines=2)
            image = _upload("Image", "search-image", height=200)
            button = gradio.Button("Search", variant="primary", elem_id="search-button")
            with gradio.Accordion("More", open=False):
                minus = gradio.Textbox(label="Less of", placeholder="a text to subtract", elem_id="search-minus")
                count = gradio.Slider(4, 48, value=USUAL_COUNT, step=4, label="Pictures", elem_id="search-count")
            chosen = _examples(examples.searches, [text, image], examples.search_labels)
        with gradio.Column(scale=5, min_width=420):
            found = gradio.Gallery(
                show_label=False, elem_id="found", columns=4, height="auto", object_fit="contain", interactive=False,
                buttons=[], min_width=320,
            )  # fmt: skip

    def search(text: str, image: str | None, minus: str, count: int) -> list[tuple[Any, str]]:
        hits = answers.search(text, image, minus, count)
        return [
            (hit.image or blank(), f"{hit.caption}\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}{hit.score:.2f}") for hit in hits
        ]

    _ask(search, [text, image, minus, count], found, button.click, text.submit, chosen)


def _by_names(answers: Answers, examples: Examples) -> None:
    gradio.Markdown("Says which of the classes that you name fits an image best; nothing was trained for them.")
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=1, min_width=300):
            image = _upload("Image", "names-image", height=260)
            labels = gradio.Textbox(label="Classes", placeholder="cat, dog, red apple", elem_id="names-labels")
            template = gradio.Textbox(label="Sentence", value=examples.template, elem_id="names-template")
            button = gradio.Button("Classify", variant="primary", elem_id="names-button")
        with gradio.Column(scale=1, min_width=300):
            result = gradio.Label(label="Result", num_top_classes=10, elem_id="names-result")
            chosen = _examples(examples.classifications, [image, labels])
    _ask(answers.by_names, [image, labels, template], result, button.click, labels.submit, chosen)


def _by_classifier(answers: Answers, examples: Examples) -> None:
    gradio.Markdown("The five classes that the classifier finds most likely, of those it was trained for.")
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=1, min_width=300):
            image = _upload("Image", "classifier-image", height=260)
            button = gradio.Button("Classify", variant="primary", elem_id="classifier-button")
        with gradio.Column(scale=1, min_width=300):
            result = gradio.Label(label="Result", num_top_classes=5, elem_id="classifier-result")
            chosen = _examples([[row[0]] for row in examples.classifications], [image])
    _ask(answers.by_classifier, [image], result, button.click, chosen)


def _ask(answer: Callable[..., Any], inputs: list[Any], output: Any, *events: Callable[..., Any] | None) -> None:
    """Answers whenever one of the events happens; one question at a time, as the model has the machine to itself."""
    for event in events:
        if event is not None:
            event(
                _told(answer), inputs, output, concurrency_limit=1, concurrency_id="model", api_visibility="private",
                show_progress_on=output,
            )  # fmt: skip


def _upload(label: str, name: str, height: int) -> gradio.Image:
    image = gradio.Image(label=label, type="filepath", sources=["upload"], height=height, elem_id=name, buttons=[])
    # Gradio would open the file itself, and whatever is wrong with it would be an error of Gradio.
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def _examples(
    rows: Sequence[Sequence[Any]], inputs: list[Any], labels: Sequence[str] | None = None
) -> Callable[..., Any] | None:
    """What can be clicked on; gives the event that the inputs have been filled in."""
    if not rows:
        return None
    samples = gradio.Examples(
        [list(row) for row in rows], inputs, label="Examples", cache_examples=False, api_visibility="private",
        example_labels=None if labels is None else list(labels),
    )  # fmt: skip
    return samples.load_input_event.then


def _told(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose refusals are messages in the page; other errors are logged, and told in general."""

    def told(*inputs: Any) -> Any:
        try:
            return answer(*inputs)
        except (UploadError, QuestionError) as error:
            raise gradio.Error(str(error), duration=10, title="Not like this", print_exception=False) from None
        except Exception:
            logging.getLogger("align_jax.demo").exception("a question failed")
            raise gradio.Error("Something went wrong here; the terminal says what.", print_exception=False) from None

    return told
