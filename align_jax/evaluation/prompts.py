"""Sentences that a class name is put into, so that it reads like the captions a model was trained on."""

from pathlib import Path

TEMPLATES = (
    "{}",
    "a picture of {}",
    "{}, photographed outdoors",
    "{} seen up close",
    "this image shows {}",
    "an old photograph of {}",
    "{} on a plain background",
    "my favourite shot of {}",
    "a drawing of {}",
    "a blurry snapshot with {} in it",
    "{} in the distance",
    "stock image: {}",
)
"""Our own, in the manner of alt texts; the papers used other lists, which a file can give."""


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates of a text file, one a line, each with {} where the class name goes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line has no {} or several, or there is no line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give a text file with a template a line, such as 'a photo of {{}}'"
        )
    templates = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    for number, template in enumerate(templates, start=1):
        if template.count("{}") != 1:
            raise ValueError(f"template {number} of {path}, {template!r}, must hold {{}} once, for the class name")
    if not templates:
        raise ValueError(f"{path} holds no template; write one a line, such as 'a photo of {{}}'")
    return templates


def fill(templates: tuple[str, ...], class_names: tuple[str, ...]) -> list[str]:
    """Every template with every name: all sentences of the first class, then those of the next ones."""
    return [template.replace("{}", name) for name in class_names for template in templates]
