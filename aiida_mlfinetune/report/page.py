"""One HTML page: its parts as plain data, and the template that shows them."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aiida_mlfinetune import __version__

__all__ = ("Anchor", "Figure", "Headline", "Linked", "Page", "Section", "Table", "render")


class Linked(str):
    """The text of a cell that leads to the row of a node on the same page.

    Attributes:
        target: identifier of that row.
    """

    target: str

    def __new__(cls, text: str, target: str) -> Linked:
        """Make a text with a target."""
        made = super().__new__(cls, text)
        made.target = target
        return made


class Anchor(str):
    """The text of a cell that links lead to.

    Attributes:
        anchor: identifier.
    """

    anchor: str

    def __new__(cls, text: str, anchor: str) -> Anchor:
        """Make a text with an identifier."""
        made = super().__new__(cls, text)
        made.anchor = anchor
        return made


@dataclass(frozen=True)
class Headline:
    """A result at the top of the page.

    Attributes:
        title: what it is.
        value: with its error, rounded.
        unit: of both.
        conditions: such as ``100 K, 1 bar, NPT``.
        note: how it was obtained, and what else to know.
        warnings: what a reader must know before using the number.
        pk: of the node.
        target: identifier of the node's row on the page, for a page that is to be the same in any database.
    """

    title: str
    value: str
    unit: str
    conditions: str
    note: str
    warnings: tuple[str, ...]
    pk: int | None
    target: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure as an SVG element with its caption."""

    svg: str
    caption: str

    @property
    def markup(self) -> Markup:
        """The element, marked as made by us and not to be escaped."""
        return Markup(self.svg)


@dataclass(frozen=True)
class Table:
    """A table of texts; a folded one shows its caption only, until it is opened."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    warnings: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    """Preformatted lines."""

    @property
    def anchor(self) -> str:
        """Identifier of the section on the page."""
        return "-".join(self.title.lower().split())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.paragraphs or self.tables or self.figures or self.warnings or self.lines)


@dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
        title: of the page.
        subtitle: what was studied.
        state: empty for a run that ended well, else what is missing and why.
        headlines: the results.
        sections: in order.
    """

    title: str
    subtitle: str
    state: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]


def render(page: Page) -> str:
    """Return the page as one HTML document that needs no other file."""
    environment = Environment(
        loader=PackageLoader("aiida_mlfinetune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section for section in page.sections if not section.is_empty]
    return environment.get_template("page.html.j2").render(page=page, sections=sections, version=__version__)
