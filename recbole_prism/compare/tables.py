"""Results of all runs as rows, and the rows as text, CSV, JSON, Markdown and LaTeX.

A row is one label on one dataset: mean and standard deviation over seeds, and how it compares with the baseline.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from recbole_prism.compare.data import has_changed
from recbole_prism.compare.plan import Job
from recbole_prism.compare.statistics import ByUser, Comparison, compare_all

COSTS = {"seconds_per_epoch": "s/epoch", "peak_memory": "MiB", "parameters": "parameters"}
SIGNIFICANT = 0.05


@dataclass
class Row:
    """values {metric: {seed: value}} of the test part; costs are means over seeds; runs: folders by seed."""

    dataset: str
    label: str
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    against: dict[str, Comparison] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        return float(np.mean(list(self.values[metric].values())))

    def std(self, metric: str) -> float | None:
        """Over seeds; None for one seed."""
        values = list(self.values[metric].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def collect(jobs: Iterable[Job], root: Path, baseline: str) -> list[Row]:
    """Rows of all jobs that have a result of the data there are, compared with the baseline of their dataset where it
    has results."""
    rows: dict[tuple[str, str], Row] = {}
    results: dict[tuple[str, str], list[dict]] = {}
    users: dict[tuple[str, str], dict[int, dict[str, ByUser]]] = {}
    for job in jobs:
        folder, key = job.folder(root), (job.dataset, job.label)
        if not (folder / "result.json").is_file() or has_changed(job, folder):
            continue
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        row = rows.setdefault(key, Row(*key))
        for metric, value in result["test"].items():
            row.values.setdefault(metric, {})[job.seed] = value
        row.runs[job.seed] = str(folder)
        results.setdefault(key, []).append(result)
        users.setdefault(key, {})[job.seed] = read_users(folder)
    for key, row in rows.items():
        for cost in COSTS:
            known = [result[cost] for result in results[key] if result[cost] is not None]
            row.costs[cost] = float(np.mean(known)) if known else None
    for dataset in {row.dataset for row in rows.values()}:
        _compare(dataset, [row for row in rows.values() if row.dataset == dataset], users, baseline)
    return list(rows.values())


def _compare(dataset: str, rows: list[Row], users: dict, baseline: str) -> None:
    first = next((row for row in rows if row.label == baseline), None)
    for metric in first.values if first else ():
        having = [row for row in rows if metric in row.values]
        values = {row.label: row.values[metric] for row in having}
        runs = {row.label: users[dataset, row.label] for row in having}
        by_user = {  # a metric such as ItemCoverage has no value for a user
            label: {seed: run[metric] for seed, run in of_seeds.items()}
            for label, of_seeds in runs.items()
            if all(metric in run for run in of_seeds.values())
        }
        found = compare_all(values, baseline, users=by_user)
        for row in having:
            if row.label in found:
                row.against[metric] = found[row.label]


def read_users(folder: Path) -> dict[str, ByUser]:
    """{metric: what was tested} of a run."""
    with np.load(folder / "users.npz", allow_pickle=False) as arrays:
        users, place = np.unique(arrays["users"], return_inverse=True)
        counts = np.bincount(place)
        return {
            metric: ByUser(users, counts, np.bincount(place, arrays[metric]) / counts)
            for metric in arrays.files
            if "@" in metric
        }


# -- formats -----------------------------------------------------------------------------------------------------------


def ranking(rows: list[Row], dataset: str, metric: str) -> dict[str, int]:
    """Label -> place on a dataset, 1 for the best mean: the largest, or where RecBole says so the smallest."""
    from recbole.evaluator.register import smaller_metrics

    sign = -1 if metric.split("@")[0].lower() in smaller_metrics else 1
    means = {row.label: sign * row.mean(metric) for row in rows if row.dataset == dataset and metric in row.values}
    return {label: 1 + sum(other > mean for other in means.values()) for label, mean in means.items()}


def marks(comparison: Comparison | None) -> str:
    """``*``: significant over seeds, ``†``: over users, both after Holm's correction."""
    if comparison is None:
        return ""
    pairs = ((comparison.p_seeds_corrected, "*"), (comparison.p_users_corrected, "†"))
    return "".join(mark for p, mark in pairs if p is not None and p < SIGNIFICANT)


def cells(row: Row, metrics: list[str]) -> list[str]:
    """Texts of one row: metrics with spread, gain of the first metric (over the baseline's seeds), costs."""
    texts = []
    for metric in metrics:
        if metric not in row.values:
            texts.append("")
            continue
        std = row.std(metric)
        spread = "" if std is None else f" ±{std:.4f}"
        texts.append(f"{row.mean(metric):.4f}{spread}{marks(row.against.get(metric))}")
    first = row.against.get(metrics[0]) if metrics else None
    texts.append(f"{first.gain:+.1%}" if first and first.gain is not None else "")
    seconds, memory, parameters = (row.costs.get(cost) for cost in COSTS)
    texts.append("" if seconds is None else f"{seconds:.2f}")
    texts.append("" if memory is None else f"{memory / 2**20:.0f}")
    texts.append("" if parameters is None else f"{parameters:,.0f}")
    return texts


def title(row: Row, rows: list[Row]) -> str:
    """Its label, and how many seeds it has where others of its dataset have more."""
    seeds, most = len(row.runs), max(len(other.runs) for other in rows if other.dataset == row.dataset)
    return row.label if seeds == most else f"{row.label} ({seeds} of {most} seeds)"


def headers(metrics: list[str]) -> list[str]:
    return ["dataset", "model", *metrics, f"gain {metrics[0]}" if metrics else "gain", *COSTS.values()]


def text_table(rows: list[Row], metrics: list[str]) -> str:
    """For a terminal."""
    table = [headers(metrics), *([row.dataset, title(row, rows), *cells(row, metrics)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: list[Row], metrics: list[str]) -> str:
    """Best bold, second underlined."""
    head = headers(metrics)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        texts = styled(rows, row, metrics, "**{}**", "<u>{}</u>")
        lines.append("| " + " | ".join([row.dataset, title(row, rows), *texts]) + " |")
    return "\n".join(lines) + "\n"


def latex_table(rows: list[Row], metrics: list[str]) -> str:
    """A tabular with booktabs' rules; best bold, second underlined."""
    head = [_latex(name) for name in headers(metrics)]
    lines = [r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    for row in rows:
        escaped = [_latex(cell) for cell in cells(row, metrics)]
        texts = styled(rows, row, metrics, r"\textbf{{{}}}", r"\underline{{{}}}", escaped)
        lines.append(" & ".join([_latex(row.dataset), _latex(title(row, rows)), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def styled(rows, row, metrics, best: str, second: str, texts: list[str] | None = None) -> list[str]:
    """Cells of a row, those of the best and the second best mean of each metric in the given formats."""
    texts = list(texts or cells(row, metrics))
    for n, metric in enumerate(metrics):
        place = ranking(rows, row.dataset, metric).get(row.label)
        style = {1: best, 2: second}.get(place)
        texts[n] = style.format(texts[n]) if style else texts[n]
    return texts


def _latex(text: str) -> str:
    for plain, escaped in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("†", r"$^\dagger$"), ("*", r"$^*$")):
        text = text.replace(plain, escaped)
    return text


def csv_table(rows: list[Row]) -> str:
    """One line a row and metric, numbers in full."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    comparison = list(asdict(Comparison(0.0, None)))
    writer.writerow(["dataset", "model", "metric", "mean", "std", "seeds", *comparison, *COSTS])
    for row in rows:
        for metric in row.values:
            against = asdict(row.against[metric]) if metric in row.against else {}
            writer.writerow(
                [row.dataset, row.label, metric, row.mean(metric), row.std(metric), len(row.values[metric])]
                + [against.get(name) for name in comparison]
                + [row.costs.get(cost) for cost in COSTS]
            )
    return file.getvalue()


def json_table(rows: list[Row]) -> str:
    """Everything, with the folder of each run."""
    return json.dumps([asdict(row) for row in rows], indent=1)
