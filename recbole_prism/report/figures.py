"""Figures as data: what is drawn, said once, for the page (``page.js``) and for papers (``drawing``).

kinds: ``dots`` (names on the y axis, values with intervals), ``lines`` (over numbers or names), ``areas`` (lines,
filled), ``points`` (labelled). A panel holds one figure, or several of which the reader picks one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

KINDS = ("dots", "lines", "areas", "points")
NEUTRAL = -1  # colour of a baseline


@dataclass
class Series:
    """Points of one name; ``low`` and ``high`` are ends of intervals; ``color`` counts through the palette.

    ``small``: faint points without interval (single seeds); ``hidden``: listed in the legend, drawn when asked for;
    ``text`` names each point.
    """

    name: str
    x: list
    y: list
    low: list | None = None
    high: list | None = None
    text: list[str] | None = None
    color: int = 0
    small: bool = False
    hidden: bool = False


@dataclass
class Figure:
    """One chart. ``name`` tells it from the others of its panel, and is part of its file's name."""

    kind: str
    name: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    log_x: bool = False
    zero_line: bool = False  # a line at x = 0 (dots)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of figure {self.kind!r}; available: {KINDS}")

    def is_empty(self) -> bool:
        return not any(series.x for series in self.series)


@dataclass
class Panel:
    """A title, figures of which one is shown at a time, and what the reader should know about them."""

    title: str
    figures: list[Figure]
    note: str = ""
    wide: bool = False

    def as_dict(self) -> dict:
        return asdict(self)


def panel(title: str, figures: list[Figure], note: str = "", *, wide: bool = False) -> list[Panel]:
    """A list with the panel, or an empty list if none of its figures has anything to show."""
    drawn = [figure for figure in figures if not figure.is_empty()]
    return [Panel(title, drawn, note, wide)] if drawn else []
