"""The page and the figures of one training run, beside its checkpoint."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recbole_prism.features import write_atomically
from recbole_prism.recommend.bundle import PRIVATE
from recbole_prism.report.drawing import write_figures
from recbole_prism.report.figures import Figure, Panel, Series, panel
from recbole_prism.report.page import Section, render_page
from recbole_prism.report.panels import curve_series, loss_panel, slice_panels, weight_panels
from recbole_prism.report.record import WEIGHT, Record, training_curves
from recbole_prism.report.results import by_user
from recbole_prism.report.slices import Group, make_groups, make_slices, metric_interval


def write_report(record: Record, trainer, model: str, dataset: str, result: dict) -> dict[str, Path]:
    """Write beside the checkpoint what the keys ``report`` and ``figures`` ask for; where each is, by these keys.

    A run that has trained for hours does not fail for want of a page: what goes wrong here is said in one line.
    """
    written: dict[str, Path] = {}
    page, figures = trainer.config["report"] is not False, bool(trainer.config["figures"])
    if not (page or figures):
        return written
    if not result["test_result"]:
        print("no report: the split has no test part", file=sys.stderr)
        return written
    path = Path(trainer.saved_model_file).with_suffix(".html")
    try:
        columns, curves = record.columns(trainer), training_curves(trainer)
        if page:
            text = run_page(model, dataset, result, columns, curves, settings=_settings(trainer))
            write_atomically(path, text.encode())
            written["report"] = path
        if figures:
            folder = path.with_name(f"{path.stem}-figures")
            users = _by_user(columns)
            write_figures(run_panels(model, result, users, curves, _groups(columns, users)), folder)
            written["figures"] = folder
    except Exception as error:
        print(f"no report: {' '.join(f'{type(error).__name__}: {error}'.split())}", file=sys.stderr)
    return written


def _settings(trainer) -> str:
    """Keys and values of a run, a line each, without what tells of this machine."""
    values = {key: value for key, value in trainer.config.final_config_dict.items() if key not in PRIVATE}
    if hasattr(trainer.model, "modalities"):
        values["modalities"] = trainer.model.modalities.names  # without the files they came from
    return "\n".join(f"{key}: {value}" for key, value in sorted(values.items()))


def _by_user(columns: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Rows of one user are alike, and are one observation."""
    users = np.unique(columns["users"])
    return columns if len(users) == len(columns["users"]) else {"users": users, **by_user(columns, users)}


def _groups(rows: Mapping[str, np.ndarray], users: Mapping[str, np.ndarray]) -> list[Group]:
    """What slices go by, where each row is a user."""
    return make_groups(users) if len(users["users"]) == len(rows["users"]) else []


def run_page(
    model: str, dataset: str, result: Mapping, columns: Mapping[str, np.ndarray], curves: Mapping, *, settings: str = ""
) -> str:
    """HTML of one run; ``result`` is that of ``recbole_prism.run.run``, ``columns`` those of a record."""
    summary, test = result["summary"], result["test_result"]
    rows, columns = columns, _by_user(columns)
    n_users, n_rows = len(columns["users"]), len(rows["users"])
    tiles = []
    for metric, value in test.items():
        interval = ""
        if metric in columns:
            mean, low, high = metric_interval(columns[metric])
            by_user_mean = f", mean of users {mean:.4f}" if n_users < n_rows else ""
            interval = f"{by_user_mean}, 95 % over users: {low:.4f} to {high:.4f}"
        tiles.append((f"{value:.4f}", f"{metric}{interval}"))
    tiles = tiles[:4]
    if summary["seconds_per_epoch"] is not None:
        tiles.append((f"{summary['seconds_per_epoch']:.2f} s", f"an epoch, {summary['epochs']} of them"))
    details = [("Settings", f"<pre>{html.escape(settings)}</pre>")] if settings else []
    section = Section("", tiles, None, run_panels(model, result, columns, curves, _groups(rows, columns)), details)
    tested = f"{n_rows:,} users' next items"
    if n_users < n_rows:
        tested = f"{n_rows:,} items of {n_users:,} users, who count with their means in intervals and figures"
    subtitle = f"Test on {tested}. Checkpoint {Path(summary['checkpoint']).name}"
    return render_page(f"{model} on {dataset}", subtitle, [section])


def run_panels(
    model: str, result: Mapping, columns: Mapping[str, np.ndarray], curves: Mapping, groups: list[Group]
) -> list[Panel]:
    """All figures of one run."""
    metrics = [metric for metric in result["test_result"] if metric in columns]
    slices = make_slices("", groups, {model: {metric: columns[metric][None] for metric in metrics}})
    weights = {name.removeprefix(WEIGHT): column for name, column in columns.items() if name.startswith(WEIGHT)}
    known = list(dict.fromkeys(metric for each in curves["valid"] for metric in each))
    validation = [Figure("lines", metric, "epoch", metric, [curve_series(model, curves, metric)]) for metric in known]
    return [
        *panel(
            "Validation and test",
            [_metrics(result, columns, metrics)],
            "Test with its 95 % interval over users; validation as far as it was best.",
        ),
        *panel("Validation during training", validation),
        *loss_panel(curves),
        *weight_panels({model: weights} if weights else {}, groups),
        *slice_panels(slices, {model: 0}),
    ]


def _metrics(result: Mapping, columns: Mapping[str, np.ndarray], metrics: list[str]) -> Figure:
    test = Series("test", [], [], [], [])
    for metric in metrics:
        mean, low, high = metric_interval(columns[metric])
        for to, value in ((test.x, mean), (test.low, low), (test.high, high)):
            to.append(round(value, 6))
        test.y.append(metric)
    best = {name: value for name, value in (result["best_valid_result"] or {}).items() if name in metrics}
    valid = Series("validation", [round(float(value), 6) for value in best.values()], list(best), color=1)
    return Figure("dots", "metrics", "", "", [test, valid])
