"""One picture of all histograms: each column of all rows, of those that were kept, and where the rules cut."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from align_jax.data.coyo.histograms import Histogram
from align_jax.data.coyo.rules import COMPARISONS, Rule
from align_jax.data.coyo.summary import Summary

_ALL, _KEPT, _CUT, _MUTED = "#c3cad5", "#2458d3", "#b4480a", "#5b6472"
_MOST_COLUMNS = 3
_PANEL_INCHES = (3.6, 2.3)


def draw(summary: Summary, rules: Sequence[Rule], path: Path) -> None:
    """Writes a PNG with a panel for each histogram.

    Args:
        summary: with at least one histogram.
        rules: that were followed.
        path: of the file.
    """
    across = min(_MOST_COLUMNS, len(summary.histograms))
    down = math.ceil(len(summary.histograms) / across)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": 8})
        width, height = max(across, 2) * _PANEL_INCHES[0], down * _PANEL_INCHES[1] + 0.5
        figure = Figure(figsize=(width, height))
        share = 100 * summary.kept / max(summary.rows, 1)
        figure.suptitle(
            f"{summary.release}: {summary.kept:,} of {summary.rows:,} rows kept ({share:.1f} %)",
            fontsize=10, ha="left", x=0.01, y=1 - 0.1 / height, va="top",
        )  # fmt: skip
        # Fixed margins, in inches: letting matplotlib find them draws everything several times.
        grid = figure.add_gridspec(
            down, across, left=0.55 / width, right=1 - 0.2 / width, bottom=0.3 / height, top=1 - 0.6 / height,
            wspace=0.25, hspace=0.35,
        )  # fmt: skip
        for number, histogram in enumerate(summary.histograms):
            _draw_panel(figure.add_subplot(grid[divmod(number, across)]), histogram, rules)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=8)
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def _draw_panel(axes: Axes, histogram: Histogram, rules: Sequence[Rule]) -> None:
    edges, column = histogram.edges, histogram.column
    axes.stairs(histogram.rows, edges, fill=True, color=_ALL, label="all rows")
    axes.stairs(histogram.kept, edges, fill=True, color=_KEPT, alpha=0.85, label="kept")
    axes.set_title(column.name.replace("_", " "), loc="left", fontsize=8.5)
    if column.bins is not None and column.bins.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED, labelsize=7)
    cuts = {rule.value for rule in rules if rule.column == column and rule.operator in COMPARISONS}
    for number, cut in enumerate(sorted(cuts)):
        axes.axvline(cut, color=_CUT, linewidth=1, linestyle=(0, (4, 2)), label=None if number else "rule")


def _short(value: float, _: object = None) -> str:
    """A count in thousands or millions."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {name}"
    return f"{value:g}"
