"""COYO-700M and COYO-Labeled-300M: rows of their published Parquet files, chosen by rules, as a list of URLs.

inputs = open_inputs([Path("coyo-700m/data")])
rules = [parse_rule("clip_similarity_vitl14 >= 0.25", inputs.release)]
summary = select(inputs, Selection(rules), Path("selected"))
"""

from align_jax.data.coyo.inputs import Inputs, open_inputs
from align_jax.data.coyo.releases import COYO_700M, COYO_LABELED_300M, CoyoError, Release
from align_jax.data.coyo.rules import Rule, parse_rule
from align_jax.data.coyo.selection import Selection, select
from align_jax.data.coyo.summary import Summary

__all__ = [
    "COYO_700M",
    "COYO_LABELED_300M",
    "CoyoError",
    "Inputs",
    "Release",
    "Rule",
    "Selection",
    "Summary",
    "open_inputs",
    "parse_rule",
    "select",
]
