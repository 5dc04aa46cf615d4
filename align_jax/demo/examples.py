"""What visitors can click on: questions about pictures of the collection that is searched."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from align_jax.demo.pictures import Pictures
from align_jax.inference.pipelines.zero_shot_image_classification import HYPOTHESIS_TEMPLATE

_OPENMOJI_SEARCHES = (
    ("red apple", None),
    ("dark skin tone woman", None),
    ("", "cat face"),
    ("blue", "red heart"),
)
_OPENMOJI_CLASSIFICATIONS = (
    ("red apple", "red apple, banana, grapes, carrot, cherries"),
    ("woman firefighter: dark skin tone", "firefighter, doctor, farmer, pilot, cook"),
    ("dog face", "cat face, dog face, horse face, mouse face, lion"),
)
_BLANK_PX = 64


@dataclass(frozen=True)
class Examples:
    """Rows of inputs; images are files.

    Attributes:
        searches: a text or "", and an image or `None`.
        search_labels: what is clicked on.
        classifications: an image and labels separated by commas.
        template: the sentence that labels are put into.
    """

    searches: tuple[tuple[str, str | None], ...] = ()
    search_labels: tuple[str, ...] = ()
    classifications: tuple[tuple[str, str], ...] = ()
    template: str = HYPOTHESIS_TEMPLATE


def of_openmoji(pictures: Pictures, folder: Path) -> Examples:
    """Examples for the quickstart's model, whose captions are bare names; their images are written to `folder`."""
    rows = {caption: row for row, caption in enumerate(pictures.captions)}

    def file(caption: str) -> str | None:
        return None if caption not in rows else _written(pictures, rows[caption], folder)

    searches = [(text, image, image and file(image)) for text, image in _OPENMOJI_SEARCHES]
    searches = [each for each in searches if each[1] is None or each[2] is not None]
    classifications = [(file(image), labels) for image, labels in _OPENMOJI_CLASSIFICATIONS]
    return Examples(
        tuple((text, path) for text, _, path in searches),
        tuple(
            " + ".join([*([text] if text else []), *([f"picture of {image}"] if image else [])])
            for text, image, _ in searches
        ),
        tuple((image, labels) for image, labels in classifications if image),
        template="{}",
    )


def of_any(pictures: Pictures | None, folder: Path) -> Examples:
    """Examples of other collections: their first pictures, to look for similar ones."""
    if pictures is None:
        return Examples()
    written = [(row, _written(pictures, row, folder)) for row in range(min(3, len(pictures.captions)))]
    found = [(path, f"like {pictures.captions[row][:40]}") for row, path in written if path is not None]
    labels = "person, animal, plant, building, vehicle, food, drawing, text"
    return Examples(
        tuple(("", path) for path, _ in found),
        tuple(label for _, label in found),
        tuple((path, labels) for path, _ in found),
    )


def blank() -> Image.Image:
    """Stands for a picture that cannot be opened any more."""
    return Image.new("RGB", (_BLANK_PX, _BLANK_PX), (226, 232, 240))


def _written(pictures: Pictures, row: int, folder: Path) -> str | None:
    image = pictures.thumbnail(row)
    if image is None:
        return None
    path = folder / f"example-{row}.png"
    image.save(path)
    return str(path)
