"""The noise filters of the ALIGN paper (arXiv 2102.05918, section 3), for any collection of images with texts.

    source = PairSource(("shards/",))
    rules = paper_rules()
    audit = filter_collection(source, rules, Path("filtered"))

Each rule stands for itself (`rules.py`); what it must know of the whole collection is counted beforehand, over all of
it, so that neither order nor other rules matter. On one machine (`one_machine.py`), or on many with Apache Beam
(`on_beam.py`).
"""

from align_jax.data.noise.audit import Audit
from align_jax.data.noise.one_machine import Counts, filter_collection
from align_jax.data.noise.pairs import Pair, PairSource
from align_jax.data.noise.rules import (
    AspectRatio,
    Facts,
    FrequentTokens,
    ImagesPerText,
    NotNearEvaluation,
    Rule,
    ShortSide,
    TextsPerImage,
    Unigrams,
    broken_rules,
    paper_rules,
)

__all__ = [
    "AspectRatio",
    "Audit",
    "Counts",
    "Facts",
    "FrequentTokens",
    "ImagesPerText",
    "NotNearEvaluation",
    "Pair",
    "PairSource",
    "Rule",
    "ShortSide",
    "TextsPerImage",
    "Unigrams",
    "broken_rules",
    "filter_collection",
    "paper_rules",
]
