"""Figures for papers: what a page shows, as SVG and PNG, by matplotlib (``pip install recbole-prism[figures]``)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from recbole_prism.errors import PRISMError
from recbole_prism.report.figures import Figure, Panel, Series

PALETTE = ["#2563c9", "#d9590f", "#0d8a63", "#9147c2", "#b07d08", "#c93a6e", "#0e8fa8"]  # as in page.js
NEUTRAL = "#6b7280"
MARKERS, DASHES = "osD^x", ["-", "--", ":", "-.", (0, (8, 3))]
WIDTH, HEIGHT = 5.0, 3.0  # inches
DODGE = 0.055
STYLE = {"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def require_matplotlib(who: str = "--figures") -> None:
    """Raise PRISMError if it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PRISMError(f"{who} needs matplotlib: pip install matplotlib")


def write_figures(panels: Sequence[Panel], folder: Path) -> int:
    """PANEL-FIGURE.svg and .png of every figure; returns how many figures."""
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for panel in panels:
        for figure in panel.figures:
            with matplotlib.rc_context(STYLE):
                drawn = draw(figure)
                FigureCanvasAgg(drawn)  # no pyplot, so no state and no window
                for suffix in (".svg", ".png"):
                    drawn.savefig(folder / f"{file_name(panel, figure)}{suffix}", dpi=200, bbox_inches="tight")
            count += 1
    return count


def file_name(panel: Panel, figure: Figure) -> str:
    """Of a figure without its suffix: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", f"{panel.title} {figure.name}").strip("-").lower()


def draw(figure: Figure):
    """A matplotlib figure of what the page shows at first."""
    from matplotlib.figure import Figure as Canvas

    rows = list(dict.fromkeys(y for series in figure.series for y in series.y)) if figure.kind == "dots" else []
    canvas = Canvas(figsize=(WIDTH, 0.9 + 0.26 * len(rows)) if rows else (WIDTH, HEIGHT), layout="constrained")
    axes = canvas.add_subplot()
    visible = [series for series in figure.series if series.x and not series.hidden]
    names = list(dict.fromkeys(x for series in visible for x in series.x if isinstance(x, str)))
    for number, series in enumerate(visible):
        DRAW[figure.kind](axes, series, names, (number - (len(visible) - 1) / 2) * DODGE)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.grid(axis="x" if figure.kind == "dots" else "y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    if figure.log_x:
        axes.set_xscale("log")
    if figure.zero_line:
        axes.axvline(0, color=NEUTRAL, linewidth=1)
    if rows:
        axes.invert_yaxis()
    if names:
        axes.set_xticks(range(len(names)), names)
    shown = list(dict.fromkeys(series.name for series in visible))
    if len(shown) > 1 and shown != rows:
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one for each name
        axes.legend(handles.values(), handles, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    return canvas


def _look(series: Series) -> dict:
    turn = max(series.color, 0) // len(PALETTE) % len(MARKERS)
    color = NEUTRAL if series.color < 0 else PALETTE[series.color % len(PALETTE)]
    return {"color": color, "marker": MARKERS[turn], "linestyle": DASHES[turn], "label": series.name}


def _errors(series: Series, values: list) -> list | None:
    if series.low is None or series.small:
        return None
    lows = [max(value - low, 0) for value, low in zip(values, series.low, strict=True)]
    return [lows, [max(high - value, 0) for value, high in zip(values, series.high, strict=True)]]


def _dots(axes, series: Series, names: list[str], shift: float) -> None:
    look = _look(series) | {"linestyle": "none", "markersize": 3 if series.small else 6}
    look |= {"alpha": 0.45, "markeredgewidth": 0} if series.small else {}
    axes.errorbar(series.x, series.y, xerr=_errors(series, series.x), elinewidth=1.4, **look)


def _lines(axes, series: Series, names: list[str], shift: float) -> None:
    x = [names.index(x) + shift for x in series.x] if names else series.x
    look = _look(series) | ({"marker": ""} if len(x) > 25 else {"markersize": 4.5})
    axes.errorbar(x, series.y, yerr=_errors(series, series.y), elinewidth=1, linewidth=1.4, **look)


def _areas(axes, series: Series, names: list[str], shift: float) -> None:
    look = _look(series)
    axes.fill_between(series.x, series.y, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(series.x, series.y, color=look["color"], linestyle=look["linestyle"], label=series.name, linewidth=1.4)


def _points(axes, series: Series, names: list[str], shift: float) -> None:
    axes.errorbar(
        series.x, series.y, yerr=_errors(series, series.y), elinewidth=1, **(_look(series) | {"linestyle": "none"})
    )


DRAW = {"dots": _dots, "lines": _lines, "areas": _areas, "points": _points}
