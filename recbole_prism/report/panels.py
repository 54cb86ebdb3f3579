"""Panels that the page of a run and the page of a comparison share. Shapes: R test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_prism.report.figures import Figure, Panel, Series, panel
from recbole_prism.report.slices import BY_HISTORY, Group, Slice

N_BINS = 40
WEIGHTS_NOTE = (
    "Weights are how the model mixes its experts for a user. They are not measured information, and not shares of the "
    "score (see recbole-prism explain)."
)


def weight_panels(weights: Mapping[str, Mapping[str, np.ndarray]], groups: Sequence[Group]) -> list[Panel]:
    """weights {model: {expert: [R] or [S, R]}}: distributions over users, and over groups of history length.

    Users of whose histories nothing has a modality have no weights (all are 0), and are left out.
    """
    weights = {model: _weighed(each) for model, each in weights.items()}
    spread = [
        Figure("areas", model, "weight", "share of users (%)", _densities(each)) for model, each in weights.items()
    ]
    by_length = [group for group in groups if group.kind == BY_HISTORY]
    lengths = [
        Figure(
            "lines",
            model,
            "items in the history",
            "weight",
            [_weight_by_group(name, values, by_length, n) for n, (name, values) in enumerate(each.items())],
        )
        for model, each in weights.items()
    ]
    return [
        *panel("Expert weights over users", spread, WEIGHTS_NOTE),
        *panel("Expert weights by history length", lengths, "Mean, and the middle half of users."),
    ]


def _weighed(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NaN where all weights are 0, unless they are everywhere."""
    none = ~np.any(list(weights.values()), axis=0)
    if none.all():
        return dict(weights)
    return {name: np.where(none, np.nan, values) for name, values in weights.items()}


def _densities(weights: Mapping[str, np.ndarray]) -> list[Series]:
    weights = {name: values[~np.isnan(values)] for name, values in weights.items()}
    everything = np.concatenate(list(weights.values()))
    edges = np.histogram_bin_edges(everything, N_BINS, range=(everything.min() - 1e-3, everything.max() + 1e-3))
    middles = [round(float(x), 5) for x in (edges[1:] + edges[:-1]) / 2]
    series = []
    for n, (name, values) in enumerate(weights.items()):
        shares = 100 * np.histogram(values, edges)[0] / values.size
        series.append(Series(name, middles, [round(float(y), 3) for y in shares], color=n))
    return series


def _weight_by_group(name: str, values: np.ndarray, groups: Sequence[Group], color: int) -> Series:
    series = Series(name, [], [], [], [], color=color)
    for group in groups:
        some = values[..., group.rows]
        some = some[~np.isnan(some)]
        if not some.size:
            continue
        low, high = np.quantile(some, (0.25, 0.75))
        series.x.append(group.label)
        for to, value in ((series.y, some.mean()), (series.low, low), (series.high, high)):
            to.append(round(float(value), 5))
    return series


def slice_panels(
    slices: Sequence[Slice], colors: Mapping[str, int], hidden: Sequence[str] = (), baseline: str | None = None
) -> list[Panel]:
    """One panel for each kind of group, with a figure for each metric and its difference from the baseline."""
    panels = []
    for kind in dict.fromkeys(each.kind for each in slices):
        some = [each for each in slices if each.kind == kind]
        counts = {each.group: each.rows for each in some}
        metrics = list(dict.fromkeys(each.metric for each in some))
        figures = [_slice_figure(kind, m, some, colors, hidden, False, m) for m in metrics]
        if baseline:
            names = {m: f"{m}, difference from {baseline}" for m in metrics}
            figures += [_slice_figure(kind, m, some, colors, hidden, True, names[m]) for m in metrics]
        sizes = ", ".join(f"{group}: {n:,}" for group, n in counts.items())
        panels += panel(f"By {kind}", figures, f"95 % intervals over users. Users: {sizes}.")
    return panels


def _slice_figure(kind, metric, slices, colors, hidden, difference: bool, name: str) -> Figure:
    figure = Figure("lines", name, kind, "difference" if difference else metric)
    for model in dict.fromkeys(each.model for each in slices):
        mine = [each for each in slices if each.model == model and each.metric == metric]
        if difference:
            mine = [each for each in mine if each.difference is not None]
        cells = [
            (s.difference, s.difference_low, s.difference_high) if difference else (s.mean, s.low, s.high) for s in mine
        ]
        y, low, high = ([round(cell[n], 6) for cell in cells] for n in range(3))
        if mine:
            x = [each.group for each in mine]
            figure.series.append(Series(model, x, y, low, high, color=colors[model], hidden=model in hidden))
    return figure


def curve_series(name: str, curves: Mapping, metric: str, *, color: int = 0, hidden: bool = False) -> Series:
    """A validation metric over epochs, from what ``record.training_curves`` keeps."""
    every = curves["valid_every"]
    before = curves.get("first", 0) // every
    found = [(every * n, result[metric]) for n, result in enumerate(curves["valid"], before + 1) if metric in result]
    return Series(name, [x for x, _ in found], [round(y, 6) for _, y in found], color=color, hidden=hidden)


def loss_panel(curves: Mapping) -> list[Panel]:
    """Every loss of one run over epochs."""
    names = list(dict.fromkeys(name for losses in curves["losses"] for name in losses))
    figures = []
    for n, name in enumerate(names):
        epochs = enumerate(curves["losses"], curves.get("first", 0) + 1)
        found = [(epoch, losses[name]) for epoch, losses in epochs if name in losses]
        series = Series(name, [x for x, _ in found], [round(y, 6) for _, y in found], color=n)
        figures.append(Figure("lines", name, "epoch", "loss, sum over batches", [series]))
    return panel("Training losses", figures)
