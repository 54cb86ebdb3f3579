"""A self-contained HTML page of tiles, tables and panels: no network, light and dark, wide and narrow.

plotly.js (4.8 MB) is taken from the plotly that RecBole brings, and makes up nearly all of a page's size.
"""

from __future__ import annotations

import html
import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_prism.errors import PRISMError
from recbole_prism.report.figures import Panel
from recbole_prism.version import __version__

HERE = Path(__file__).resolve().parent


@dataclass
class Table:
    """Cells are HTML; ``marked``: index of a tinted row."""

    head: list[str]
    rows: list[list[str]]
    marked: int | None = None
    note: str = ""


@dataclass
class Section:
    """Tiles are (figure, what it is); details are (summary, HTML)."""

    title: str = ""
    tiles: list[tuple[str, str]] = field(default_factory=list)
    table: Table | None = None
    panels: list[Panel] = field(default_factory=list)
    details: list[tuple[str, str]] = field(default_factory=list)


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as text. Raises PRISMError if plotly is not installed."""
    panels: list[dict] = []
    body = "".join(_section(n, section, panels) for n, section in enumerate(sections))
    named = [(n, section.title) for n, section in enumerate(sections) if section.title]
    links = "".join(f'<a href="#part{n}">{html.escape(name)}</a>' for n, name in named)
    made = f"Made by recbole-prism {__version__}, {time.strftime('%d %B %Y, %H:%M')}."
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
{(HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p class="subtitle">{html.escape(subtitle)}</p>
{f"<nav>{links}</nav>" if len(named) > 1 else ""}
</header>
<main>
{body}</main>
<footer>{html.escape(made)} Figures are saved as SVG by the camera that appears over them.</footer>
<script type="application/json" id="panels">{_json(panels)}</script>
<script>{plotly_js()}</script>
<script>
{(HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def plotly_js() -> str:
    """plotly.js, without importing plotly."""
    found = importlib.util.find_spec("plotly")
    file = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if file is None or not file.is_file():
        raise PRISMError("a report needs plotly.js, which the plotly package brings: pip install plotly")
    return file.read_text(encoding="utf-8").replace("</script", "<\\/script")


def _json(value) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _section(number: int, section: Section, panels: list[dict]) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>\n"] if section.title else []
    if section.tiles:
        tiles = "".join(f"<div class='tile'><b>{b}</b><span>{html.escape(s)}</span></div>" for b, s in section.tiles)
        parts.append(f'<div class="tiles">{tiles}</div>\n')
    if section.table:
        parts.append(_table(section.table))
    if section.panels:
        cards = "".join(_card(panel, len(panels) + n) for n, panel in enumerate(section.panels))
        panels.extend(panel.as_dict() for panel in section.panels)
        parts.append(f'<div class="cards">\n{cards}</div>\n')
    parts += [f"<details><summary>{html.escape(name)}</summary>{inner}</details>\n" for name, inner in section.details]
    return f'<section id="part{number}">\n{"".join(parts)}</section>\n'


def _card(panel: Panel, number: int) -> str:
    options = "".join(f"<option>{html.escape(figure.name)}</option>" for figure in panel.figures)
    choice = f'<select aria-label="{html.escape(panel.title)}">{options}</select>' if len(panel.figures) > 1 else ""
    note = f'<p class="note">{html.escape(panel.note)}</p>' if panel.note else ""
    return f"""<figure class="card{" wide" if panel.wide else ""}" data-panel="{number}">
<div class="head"><h3>{html.escape(panel.title)}</h3>{choice}</div>
<div class="keys"></div><div class="chart"></div>{note}
</figure>
"""


def _table(table: Table) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in table.head)
    rows = [
        f"<tr{' class=baseline' if n == table.marked else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for n, row in enumerate(table.rows)
    ]
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    body = "\n".join(rows)
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="card"><div class="scroll">{table}</div>{note}</div>\n'
