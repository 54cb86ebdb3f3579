"""``recbole-prism compare``: models x datasets x seeds x controls, as a table with tests of significance."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_prism.errors import PRISMError

NOTE = (
    "* significant over seeds (paired t), † over users (paired bootstrap), p < .05 after Holm's correction, against {} "
    "(seeds that both have)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", metavar="PLAN.yaml", help="the same as below, as keys of a yaml file")
    parser.add_argument("--models", help="names separated by commas: SASRec,PRISM_SASRec,Pop")
    parser.add_argument("--datasets", help="names separated by commas (ml-100k)")
    parser.add_argument("--seeds", help="how many (5), or which: 7,8,9")
    parser.add_argument("--controls", help="presets for PRISM models: no_losses,no_projections,only_text,...")
    parser.add_argument("--baseline", help="what gains and tests are against (the first model)")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="settings of all runs")
    parser.add_argument("--metrics", help="columns of the table (those of RecBole's topk and metrics)")
    parser.add_argument("--cold-items", type=float, metavar="SHARE", help="hold this share of items out of training")
    parser.add_argument(
        "--figures", action="store_true", help="also write each figure as SVG and PNG (needs matplotlib)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (1)")
    parser.add_argument("--output", "-o", default="compared", help="folder of runs and tables (compared)")
    parser.add_argument("--only-tables", action="store_true", help="run nothing, tabulate what is finished")


def main(arguments: argparse.Namespace) -> int:
    """Run what is missing, then print and write the tables; 1 if a run failed."""
    from recbole_prism.compare import tables
    from recbole_prism.compare.runner import run_jobs
    from recbole_prism.features import write_atomically

    if arguments.figures:
        from recbole_prism.report.drawing import require_matplotlib

        require_matplotlib()
    if arguments.jobs < 1:
        raise PRISMError(f"--jobs: {arguments.jobs} is not allowed; must be at least 1")
    plan = read_plan(arguments)
    jobs, root = plan.jobs(), Path(arguments.output).resolve()
    metrics = [metric.lower() for metric in _split(arguments.metrics)]
    _check_metrics(metrics, jobs)
    failed = []
    if not arguments.only_tables:
        done = iter(range(1, len(jobs) + 1))

        def report(job, what: str) -> None:
            print(f"[{next(done)}/{len(jobs)}] {job.dataset} {job.label} seed {job.seed}: {what}", flush=True)

        failed = run_jobs(jobs, root, at_once=arguments.jobs, report=report)
    rows = tables.collect(jobs, root, plan.baseline)
    if not rows:
        raise PRISMError(f"{root}: no run is finished, so there is nothing to tabulate")
    known = list(dict.fromkeys(metric for row in rows for metric in row.values))
    metrics = metrics or known
    missing = [metric for metric in metrics if metric not in known]
    if missing:
        raise PRISMError(f"--metrics: {missing[0]!r} was not measured; there are {', '.join(known)}")
    formats = {
        "md": tables.markdown_table(rows, metrics),
        "tex": tables.latex_table(rows, metrics),
        "csv": tables.csv_table(rows),
        "json": tables.json_table(rows),
    }
    for suffix, text in formats.items():
        write_atomically(root / f"table.{suffix}", text.encode())
    print(f"\n{tables.text_table(rows, metrics)}\n{NOTE.format(plan.baseline)}")
    write_report(rows, metrics, plan.baseline, root, figures=arguments.figures)
    print(f"written to {root}/table.csv, .json, .md, .tex, slices.csv, report.html")
    missing = len(jobs) - sum(len(row.runs) for row in rows)
    if arguments.only_tables and missing:
        print(f"{missing} of {len(jobs)} runs are not finished, or of data that have changed since, and in no table")
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again")
    return 1 if failed else 0


def _check_metrics(metrics: list[str], jobs: list) -> None:
    """Raises PRISMError for columns that no run will measure, before any is run."""
    from recbole_prism.config import computed_metrics
    from recbole_prism.errors import suggest

    measured = {
        name.lower() for job in jobs for name in computed_metrics(job.settings["metrics"], job.settings["topk"])
    }
    for metric in metrics:
        if metric not in measured:
            raise PRISMError(f"--metrics: {metric!r} is not measured{suggest(metric, measured)}; see topk and metrics")


def write_report(rows: list, metrics: list[str], baseline: str, root: Path, *, figures: bool) -> None:
    """slices.csv, report.html, and the folder of figures if asked for."""
    from recbole_prism.features import write_atomically
    from recbole_prism.report.compare_page import compare_page, compare_panels
    from recbole_prism.report.results import read_results
    from recbole_prism.report.slices import csv_slices

    datasets = dict.fromkeys(row.dataset for row in rows)
    results = [read_results(dataset, [row for row in rows if row.dataset == dataset]) for dataset in datasets]
    slices = [each for found in results for each in found.slices(baseline)]
    write_atomically(root / "slices.csv", csv_slices(slices).encode())
    write_atomically(root / "report.html", compare_page(results, metrics, baseline, root).encode())
    if figures:
        from recbole_prism.report.drawing import write_figures

        for found in results:
            count = write_figures(compare_panels(found, metrics, baseline), root / "figures" / found.dataset)
            print(f"{count} figures as .svg and .png in {root / 'figures' / found.dataset}")


def read_plan(arguments: argparse.Namespace):
    """The yaml file, then what the command line says. Raises PRISMError for unknown keys and names."""
    from recbole_prism.compare.plan import make_plan
    from recbole_prism.config import read_settings, read_yaml
    from recbole_prism.datasets import check_dataset
    from recbole_prism.errors import suggest

    keys = ("models", "datasets", "seeds", "controls", "settings", "baseline", "cold_items")
    given = read_yaml(Path(arguments.plan)) if arguments.plan else {}
    unknown = [key for key in given if key not in keys]
    if unknown:
        raise PRISMError(f"{arguments.plan}: {unknown[0]!r} is unknown{suggest(str(unknown[0]), keys)}")
    settings = {**(given.get("settings") or {}), **read_settings(arguments.set)}
    seeds = given.get("seeds", 5)
    if arguments.seeds:
        numbers = [int(part) if part.isdigit() else part for part in _split(arguments.seeds)] or [arguments.seeds]
        seeds = numbers if len(numbers) > 1 else numbers[0]
    models = _split(arguments.models) or given.get("models")
    if not models:
        raise PRISMError("nothing to compare; name --models or a plan")
    plan = make_plan(
        models,
        _split(arguments.datasets) or given.get("datasets") or ["ml-100k"],
        seeds,
        controls=_split(arguments.controls) or given.get("controls") or [],
        settings=settings,
        baseline=arguments.baseline or given.get("baseline"),
        cold_items=given.get("cold_items") if arguments.cold_items is None else arguments.cold_items,
    )
    for dataset in plan.datasets:
        check_dataset(dataset, str(settings.get("data_path", "dataset/")))
    return plan


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []
