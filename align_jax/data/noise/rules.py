"""The rules: each looks at one pair, and at what is known of its image and text in the whole collection.

| rule | the paper |
|---|---|
| `ShortSide` | "the shorter dimension is larger than 200 pixels" |
| `AspectRatio` | "aspect ratio is smaller than 3" |
| `TextsPerImage` | images with more than 1,000 texts are dropped |
| `ImagesPerText` | texts that more than 10 images share are dropped ("1920x1080", "alt_img") |
| `Unigrams` | texts of fewer than 3 or more than 20 unigrams are dropped |
| `FrequentTokens` | texts with a token outside the 100 million most frequent unigrams and bigrams are dropped |
| `NotNearEvaluation` | near-duplicates of test images are dropped: cosine of embeddings above 0.975 (appendix A) |
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from align_jax.data.noise.pairs import Pair
from align_jax.data.noise.tokens import unigrams


class Facts(NamedTuple):
    """What is known of a pair in its collection; the values of what nobody asked for keep every pair.

    Attributes:
        texts_of_image: different texts that the image has.
        images_of_text: different images that the text has.
        rarest_token: how often the rarest unigram or bigram of the text occurs in all texts.
        common_count: how often a token occurs at least, to be among the most frequent.
        near_evaluation: whether the image is nearly one of an evaluation.
    """

    texts_of_image: int = 0
    images_of_text: int = 0
    rarest_token: int = sys.maxsize
    common_count: int = 0
    near_evaluation: bool = False


@runtime_checkable
class Rule(Protocol):
    """A condition on pairs.

    Attributes:
        name: what it demands, for the audit.
        needs: the field of `Facts` that it looks at, or `None`.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> str | None: ...

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        """Whether a pair may stay."""
        ...


@dataclass(frozen=True)
class ShortSide:
    """The smaller side has more than so many pixels."""

    above_px: int = 200
    needs = None

    def __post_init__(self) -> None:
        _require(self.above_px >= 0, f"short side {self.above_px} px is negative; use 0 or more")

    @property
    def name(self) -> str:
        return f"short side > {self.above_px} px"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return min(pair.width_px, pair.height_px) > self.above_px


@dataclass(frozen=True)
class AspectRatio:
    """The larger side, divided by the smaller one, is below a limit."""

    below: float = 3.0
    needs = None

    def __post_init__(self) -> None:
        _require(self.below > 1, f"aspect ratio {self.below:g} is not above 1, that of a square; no image is below it")

    @property
    def name(self) -> str:
        return f"aspect ratio < {self.below:g}"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return max(pair.width_px, pair.height_px) < self.below * min(pair.width_px, pair.height_px)


@dataclass(frozen=True)
class TextsPerImage:
    """The image has at most so many different texts."""

    at_most: int = 1000
    needs = "texts_of_image"

    def __post_init__(self) -> None:
        _require(self.at_most >= 1, f"{self.at_most} texts of an image are not positive; every image here has one")

    @property
    def name(self) -> str:
        return f"texts of the image <= {self.at_most:,}"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return facts.texts_of_image <= self.at_most


@dataclass(frozen=True)
class ImagesPerText:
    """At most so many different images share the text."""

    at_most: int = 10
    needs = "images_of_text"

    def __post_init__(self) -> None:
        _require(self.at_most >= 1, f"{self.at_most} images of a text are not positive; every text here has one")

    @property
    def name(self) -> str:
        return f"images of the text <= {self.at_most:,}"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return facts.images_of_text <= self.at_most


@dataclass(frozen=True)
class Unigrams:
    """The text has not too few and not too many words."""

    at_least: int = 3
    at_most: int = 20
    needs = None

    def __post_init__(self) -> None:
        words = f"{self.at_least} to {self.at_most} unigrams"
        _require(0 <= self.at_least <= self.at_most, f"{words} are no range; give the smaller number first, from 0 on")
        _require(self.at_most >= 1, f"{words} leave no text; allow one word or more")

    @property
    def name(self) -> str:
        return f"{self.at_least} to {self.at_most} unigrams"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return self.at_least <= len(unigrams(pair.text)) <= self.at_most


@dataclass(frozen=True)
class FrequentTokens:
    """Every unigram and bigram of the text is among the most frequent ones."""

    most_frequent: int = 100_000_000
    needs = "rarest_token"

    def __post_init__(self) -> None:
        _require(self.most_frequent >= 1, f"the {self.most_frequent} most frequent tokens are none; allow one or more")

    @property
    def name(self) -> str:
        return f"tokens among the {self.most_frequent:,} most frequent"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return facts.rarest_token >= facts.common_count


@dataclass(frozen=True)
class NotNearEvaluation:
    """The image is no near-duplicate of one of an evaluation."""

    cosine: float = 0.975
    needs = "near_evaluation"

    def __post_init__(self) -> None:
        _require(0 < self.cosine < 1, f"cosine {self.cosine:g} is not between 0 and 1, as of images that are alike")

    @property
    def name(self) -> str:
        return f"cosine to evaluation images <= {self.cosine:g}"

    def keeps(self, pair: Pair, facts: Facts) -> bool:
        return not facts.near_evaluation


def paper_rules() -> tuple[Rule, ...]:
    """All of them, with the paper's numbers, in its order."""
    return (
        ShortSide(), AspectRatio(), TextsPerImage(), NotNearEvaluation(), ImagesPerText(), FrequentTokens(), Unigrams(),
    )  # fmt: skip


def broken_rules(pair: Pair, facts: Facts, rules: Sequence[Rule]) -> list[str]:
    """Names of all rules that a pair breaks, in their order; empty where it is kept."""
    return [rule.name for rule in rules if not rule.keeps(pair, facts)]


def allowed_tokens(rules: Sequence[Rule]) -> int | None:
    """How many tokens are frequent enough, where a rule asks for it."""
    return next((rule.most_frequent for rule in rules if isinstance(rule, FrequentTokens)), None)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
