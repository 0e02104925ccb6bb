"""One look for all figures, readable on light and on dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

INK: Final = "#6b7280"
"""Grey of text and axes, legible on white and on black; ``to_svg`` turns it into the colour of the page's text."""

PALETTE: Final = ("#3b82c4", "#e07b39", "#2f9e78", "#b5599d", "#8a8f98")
"""Blue, orange, green, purple, grey: told apart with any colour vision, on light and dark."""

RC: Final[dict[str, Any]] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "aiida-mlfinetune",
}


@contextmanager
def look() -> Iterator[None]:
    """Draw with the settings of this module alone, whatever a user's file or an import has set before.

    MACE, for one, changes the size of all text when it is imported: the same report would not be the same page.
    """
    with rc_context():
        rcdefaults()
        rcParams.update(RC)
        yield


def new_figure(n_columns: int = 1, width: float = 4.4, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n_columns`` axes side by side, each ``width`` by ``height`` inches."""
    with look():
        figure = Figure(figsize=(width * n_columns, height), layout="constrained")
        axes = [figure.add_subplot(1, n_columns, column + 1) for column in range(n_columns)]
    return figure, axes


def add_legend(ax: Axes, loc: str = "best") -> None:
    """Add a legend without a frame to an axis that has anything to name."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc=loc, frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4)


def make_logarithmic(ax: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for an HTML page.

    Args:
        figure: as made by ``new_figure``.
        name: unique on the page; it keeps the identifiers of several figures apart.
    """
    with look():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace(INK, "currentColor")
