"""The page of a comparison: report.html beside its tables."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_prism.compare import tables
from recbole_prism.compare.tables import Row
from recbole_prism.report.figures import NEUTRAL, Figure, Panel, Series, panel
from recbole_prism.report.page import Section, Table, render_page
from recbole_prism.report.panels import curve_series, slice_panels, weight_panels
from recbole_prism.report.results import Results
from recbole_prism.report.slices import metric_interval

MANY = 8  # models; with more, controls are drawn on demand where each is a line
COSTS = {  # of a run: what the axis says, divided by
    "seconds_per_epoch": ("seconds per epoch", 1),
    "seconds": ("seconds in all", 1),
    "peak_memory": ("peak memory (MiB)", 2**20),
    "parameters": ("parameters", 1),
}


def compare_page(results: Sequence[Results], metrics: list[str], baseline: str, root: Path) -> str:
    """HTML of all datasets; the first metric is the one shown first. Links to runs are relative to ``root``."""
    rows = [row for each in results for row in each.rows]
    labels = list(dict.fromkeys(row.label for row in rows))
    seeds = {seed for row in rows for seed in row.runs}
    title = f"{len(labels)} model{'s' if len(labels) > 1 else ''} on {', '.join(each.dataset for each in results)}"
    subtitle = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, compared with {baseline}"
    return render_page(title, subtitle, [_section(each, metrics, baseline, root) for each in results])


def compare_panels(results: Results, metrics: list[str], baseline: str) -> list[Panel]:
    """All figures of one dataset."""
    rows = results.rows
    models = [row.label for row in rows if row.label != baseline]
    colors = {baseline: NEUTRAL, **{label: n for n, label in enumerate(models)}}
    hidden = [label for label in colors if "+" in label] if len(rows) > MANY else []
    measured = [metric for metric in metrics if any(metric in row.values for row in rows)]
    removed = [_removed(results, metric, colors, hidden) for metric in measured]
    slices = [each for each in results.slices(baseline) if each.metric in measured]
    return [
        *panel(
            "Metrics",
            [_metric_figure(results, metric, colors) for metric in measured],
            "Large: mean over seeds, with its 95 % interval over users; small: single seeds. Models answer for the "
            "same users, so intervals that overlap do not mean that models are alike: the differences tell.",
            wide=len(rows) > MANY,
        ),
        *panel(
            f"Difference from {baseline}",
            [_difference_figure(rows, metric, colors) for metric in measured],
            "95 % interval of the paired difference over users (bootstrap).",
            wide=len(rows) > MANY,
        ),
        *panel("Cost against accuracy", _cost_figures(rows, results, measured, colors), "95 % intervals over users."),
        *panel("Validation during training", [_curves(results, metric, colors, hidden) for metric in measured]),
        *slice_panels(slices, colors, hidden, baseline),
        *panel(
            "Features removed at random",
            removed,
            "The trained models, tested again while items lack each modality with this probability, in histories and "
            "as candidates. Bars: standard deviation over seeds.",
        ),
        *weight_panels(results.weights, results.groups),
    ]


def _section(results: Results, metrics: list[str], baseline: str, root: Path) -> Section:
    rows = results.rows
    return Section(
        results.dataset,
        _tiles(rows, metrics, baseline, len(results.users)),
        _table(rows, metrics, baseline),
        compare_panels(results, metrics, baseline),
        [("Runs", _runs(results, metrics, root))],
    )


def _tiles(rows: list[Row], metrics: list[str], baseline: str, n_users: int) -> list[tuple[str, str]]:
    metric = next((metric for metric in metrics if any(metric in row.values for row in rows)), None)
    known = [row for row in rows if metric in row.values]
    tiles = []
    if known:
        places = tables.ranking(known, known[0].dataset, metric)
        best = min(known, key=lambda row: places[row.label])
        tiles.append((f"{best.mean(metric):.4f}", f"best {metric}: {best.label}"))
        against = best.against.get(metric)
        if against and against.gain is not None:
            tiles.append((f"{against.gain:+.1%}", f"its gain over {baseline} {tables.marks(against)}".strip()))
    tiles.append((f"{sum(len(row.runs) for row in rows)}", "runs"))
    return [*tiles, (f"{n_users:,}", "test users")]


def _table(rows: list[Row], metrics: list[str], baseline: str) -> Table:
    head = [html.escape(name) for name in tables.headers(metrics)[1:]]
    body = []
    for row in rows:
        texts = [html.escape(cell).replace(" ±", " <small>±") for cell in tables.cells(row, metrics)]
        texts = [f"{text}</small>" if "<small>" in text else text for text in texts]
        body.append(
            [breakable(tables.title(row, rows)), *tables.styled(rows, row, metrics, "<b>{}</b>", "<u>{}</u>", texts)]
        )
    marked = next((n for n, row in enumerate(rows) if row.label == baseline), None)
    note = (
        "Mean ± standard deviation over seeds; best bold, second underlined. * significant over seeds (paired t), "
        f"† over users (paired bootstrap), p < {tables.SIGNIFICANT} after Holm's correction, against {baseline} "
        "(seeds that both have)."
    )
    return Table(head, body, marked, note)


def breakable(label: str) -> str:
    """HTML of a label that narrow pages may break."""
    return html.escape(label).replace("_", "_<wbr>").replace("+", "<wbr>+")


def _runs(results: Results, metrics: list[str], root: Path) -> str:
    lines = []
    for row in results.rows:
        for (seed, folder), outcome in zip(row.runs.items(), results.outcomes[row.label], strict=True):
            where = html.escape(os.path.relpath(folder, root))
            values = [f"{outcome['test'][metric]:.4f}" if metric in outcome["test"] else "" for metric in metrics]
            cells = [
                breakable(row.label),
                str(seed),
                *values,
                str(outcome["epochs"]),
                f'<a href="{where}">{where}</a>',
            ]
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["model", "seed", *metrics, "epochs", "folder"])
    return f'<div class="card"><div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div></div>'


def _metric_figure(results: Results, metric: str, colors: dict[str, int]) -> Figure:
    figure = Figure("dots", metric, metric, "")
    for row in results.rows:
        if metric not in row.values:
            continue
        color, seeds = colors[row.label], list(row.values[metric].values())
        ends = _interval(results, row, metric)
        figure.series.append(Series(row.label, [round(row.mean(metric), 6)], [row.label], *ends, color=color))
        if len(seeds) > 1:
            names = [f"seed {seed}" for seed in row.values[metric]]
            each = [round(value, 6) for value in seeds]
            figure.series.append(Series(row.label, each, [row.label] * len(each), text=names, color=color, small=True))
    return figure


def _interval(results: Results, row: Row, metric: str) -> tuple[list[float] | None, list[float] | None]:
    """Ends of the 95 % interval over users, of seeds' means; (None, None) where a metric has no value for a user."""
    by_user = results.values.get(row.label, {}).get(metric)
    if by_user is None:
        return None, None
    _, low, high = metric_interval(by_user.mean(0))
    return [round(low, 6)], [round(high, 6)]


def _difference_figure(rows: list[Row], metric: str, colors: dict[str, int]) -> Figure:
    figure = Figure("dots", metric, f"difference in {metric}", "", zero_line=True)
    for row in rows:
        against = row.against.get(metric)
        if against is None:
            continue
        low, high = against.interval or (against.difference, against.difference)
        value, low, high = (round(each, 6) for each in (against.difference, low, high))
        text = [f"{row.label} {tables.marks(against)}".strip()]
        figure.series.append(Series(row.label, [value], [row.label], [low], [high], text=text, color=colors[row.label]))
    return figure


def _cost_figures(rows: list[Row], results: Results, metrics: list[str], colors: dict[str, int]) -> list[Figure]:
    figures = []
    for metric in metrics[:1]:
        for cost, (label, unit) in COSTS.items():
            figure = Figure("points", label, label, metric, log_x=True)
            for row in rows:
                known = [each[cost] for each in results.outcomes[row.label] if each.get(cost)]
                if known and metric in row.values:
                    x, y = round(float(np.mean(known)) / unit, 4), round(row.mean(metric), 6)
                    text, ends = [f"{row.label}, {x:,.4g} {label}"], _interval(results, row, metric)
                    figure.series.append(Series(row.label, [x], [y], *ends, text=text, color=colors[row.label]))
            figures.append(figure)
    return figures


def _curves(results: Results, metric: str, colors: dict[str, int], hidden: Sequence[str]) -> Figure:
    figure = Figure("lines", metric, "epoch", metric)
    for label, outcomes in results.outcomes.items():
        for outcome in outcomes:
            curves = outcome.get("curves")
            series = curves and curve_series(label, curves, metric, color=colors[label], hidden=label in hidden)
            if series and len(series.x) > 1:
                figure.series.append(series)
    return figure


def _removed(results: Results, metric: str, colors: dict[str, int], hidden: Sequence[str]) -> Figure:
    figure = Figure("lines", metric, "share of features removed", metric)
    for label, outcomes in results.outcomes.items():
        found = [outcome["removed"] for outcome in outcomes if outcome.get("removed")]
        if not found:
            continue
        series = Series(label, [], [], [], [], color=colors[label], hidden=label in hidden)
        for rate in found[0]:
            values = np.array([each[rate][metric] for each in found if metric in each.get(rate, {})])
            if not len(values):
                continue
            half = values.std(ddof=1) if len(values) > 1 else 0.0
            series.x.append(float(rate))
            for to, value in ((series.y, 0), (series.low, -half), (series.high, half)):
                to.append(round(float(values.mean() + value), 6))
        figure.series.append(series)
    return figure
