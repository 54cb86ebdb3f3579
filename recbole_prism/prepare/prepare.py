"""``prepare``: raw data -> atomic files, texts, image addresses, yaml and report."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_prism.errors import PRISMError
from recbole_prism.prepare import atomic, interactions, paper
from recbole_prism.prepare.clean import Template
from recbole_prism.prepare.extras import Extras
from recbole_prism.prepare.files import (
    DatasetFolder,
    add_to_report,
    describe_file,
    fingerprint,
    identity,
    read_report,
    remove_leftovers,
    versions,
)
from recbole_prism.prepare.outputs import intact, outdated_features, replace, spare
from recbole_prism.prepare.readers import BadLines, RawFile
from recbole_prism.prepare.sources import SOURCES, Source, get_source

DEFAULTS: dict[str, Any] = {
    "k_core": None,
    "duplicates": "exact",
    "missing_timestamps": "drop",
    "template": None,
    "images_per_item": 1,
    "image_folder": None,
    "extra": None,
    "max_bad_lines": 0.01,
}


def prepare_dataset(
    source: str, name: str, *, data_path: str | Path = "dataset", force: bool = False, **options: Any
) -> dict[str, Any]:
    """Make ``DATA_PATH/NAME`` out of raw files and return its report's ``prepare`` section.

    ``options`` are the command line's, with underscores (``reviews=...``, ``k_core=5``). Nothing is done if the
    folder already holds the result of the same inputs and options. A run that was killed goes on after the pass over
    the interactions if it got that far. One that fails leaves the files of an earlier one as they are.

    Raises:
        PRISMError: unknown source or option, a file missing or of another format, nothing left after filtering, or
            files in the folder that are not as ``prepare`` left them (unless ``force``).
    """
    kind = get_source(source)
    folder = DatasetFolder(name, data_path)
    options = _complete(kind, options)
    inputs = kind.inputs(options)
    extras = Extras(options, kind)
    key = fingerprint([source, options, versions(), {r: identity(p) for r, p in inputs.items()}, extras.identity()])
    done = read_report(folder).get("prepare", {})
    if not force and done.get("fingerprint") == key and intact(folder, done):
        return {**done, "already_done": True, "outdated_features": outdated_features(folder)}
    spare(inputs, folder, force)
    work = folder.work("prepare")
    template = Template(options["template"] or kind.template, set(kind.fields) | extras.fields)

    start = time.perf_counter()
    folder.path.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.path)
    checksums: dict[str, RawFile] = {}

    def open_raw(path: Path) -> RawFile:
        bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False)
        raw = checksums[str(path)] = RawFile(path, bar)
        return raw

    data, facts = _interactions(kind, options, work / f"{key}.npz", open_raw)
    made = DatasetFolder(name, work)  # until all files are there
    columns = atomic.write_inter(made, data)
    bad = BadLines(options["max_bad_lines"])
    wanted = dict.fromkeys(data.item_ids)
    items = extras.complete(kind(options, open_raw, bad).items(wanted), wanted)
    item_counts = atomic.write_items(made, data.item_ids, items, tuple({*kind.fields, "title"}), template)
    atomic.write_yaml(made, source, columns, kind.time_unit, item_counts)

    size = paper.statistics(data.size())
    known = facts["checksums"] | {path: raw.checksum for path, raw in checksums.items() if raw.checksum}
    section = {
        "source": source,
        "fingerprint": key,
        "inputs": {role: describe_file(path, known.get(str(path))) for role, path in inputs.items()} | extras.inputs(),
        "options": options,
        "text_template": template.template,
        "image_root": extras.root and os.path.abspath(extras.root),
        "counts": {**facts["counts"], "items": item_counts | extras.counts},
        "statistics": size,
        "paper": paper.paper_name(source, next(iter(inputs.values())).name),
        "bad_lines": facts["bad_lines"] + bad.summary() + extras.bad.summary(),
        "outputs": replace(folder, made),
        "outdated_features": outdated_features(folder),
        "versions": versions("numpy", "orjson", "pyarrow"),
        "seconds": round(time.perf_counter() - start, 3),
    }
    add_to_report(folder, "prepare", section)
    shutil.rmtree(work, ignore_errors=True)
    return section


def _complete(kind: type[Source], given: dict[str, Any]) -> dict[str, Any]:
    """Options with defaults filled in; raises PRISMError for one that does not exist or a value out of range."""
    options = _own_options(kind) | DEFAULTS
    unknown = sorted(set(given) - set(options))
    if unknown:
        raise PRISMError(f"unknown options {unknown}; available: {sorted(options)}")
    options.update({key: str(value) if isinstance(value, Path) else value for key, value in given.items()})
    options["k_core"] = kind.default_k_core if options["k_core"] is None else _k_core(options["k_core"])
    for option, number in (("images_per_item", int), ("max_bad_lines", float)):
        try:
            options[option] = number(options[option])
        except (TypeError, ValueError) as error:
            raise PRISMError(f"{option} {options[option]!r}: a number is needed") from error
    for option, allowed in (
        ("duplicates", interactions.DUPLICATES),
        ("missing_timestamps", interactions.MISSING_TIMESTAMPS),
    ):
        if options[option] not in allowed:
            raise PRISMError(f"{option} {options[option]!r}: one of {list(allowed)}")
    return options


def _interactions(kind: type[Source], options: dict[str, Any], kept: Path, open_raw: Any) -> tuple[Any, dict[str, Any]]:
    """The final interactions and what was dropped on the way; from ``kept`` if an earlier run got this far."""
    if kept.is_file():
        try:
            return interactions.load(kept)
        except (OSError, ValueError, KeyError):
            kept.unlink()
    bad = BadLines(options["max_bad_lines"])
    opened: dict[str, RawFile] = {}

    def remember(path: Path) -> RawFile:
        raw = opened[str(path)] = open_raw(path)
        return raw

    path = next(iter(kind.inputs(options).values()))
    data, unusable = interactions.collect(kind(options, remember, bad).interaction_blocks())
    counts: dict[str, Any] = {"read": len(data) + unusable, "unusable_id": unusable}
    for step, reduce in (
        ("missing_timestamp", lambda d: interactions.settle_timestamps(d, options["missing_timestamps"], str(path))),
        ("duplicates", lambda d: interactions.drop_duplicates(d, options["duplicates"])),
    ):
        before = len(data)
        data = reduce(data)
        counts[f"dropped_{step}"] = before - len(data)
    counts["before_k_core"] = data.size()
    data, counts["k_core_rounds"] = interactions.k_core(data, options["k_core"])
    if not len(data):
        raise PRISMError(
            f"{path}: no interaction is left of {counts['read']} after the filters {counts}; a smaller --k-core helps"
        )
    data = interactions.in_order(data.compact())
    checksums = {name: raw.checksum for name, raw in opened.items()}
    facts = {"counts": counts, "bad_lines": bad.summary(), "checksums": checksums}
    interactions.save(kept, data, facts)
    return data, facts


def _k_core(value: Any) -> int:
    if value == "off":
        return 0
    if isinstance(value, bool) or not str(value).isdecimal():
        raise PRISMError(f"k_core {value!r}: 'off' or a whole number")
    return int(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for every source."""
    subparsers = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, kind in SOURCES.items():
        sub = subparsers.add_parser(name, help=kind.help, description=kind.help)
        sub.add_argument("name", metavar="NAME", help="of the dataset to make")
        sub.add_argument("--data-path", default="dataset", help="folder of all datasets (default: dataset)")
        kind.add_arguments(sub)
        core = kind.default_k_core or "off"
        sub.add_argument("--k-core", metavar="off|K", help=f"off, or k: at least k interactions each (default: {core})")
        sub.add_argument("--duplicates", choices=interactions.DUPLICATES, help="default: exact (user, item and time)")
        sub.add_argument("--missing-timestamps", choices=interactions.MISSING_TIMESTAMPS, help="default: drop")
        sub.add_argument("--template", help=f"text of an item (default: {kind.template}); fields: {list(kind.fields)}")
        sub.add_argument("--images-per-item", type=int, metavar="N", help="at most N (default: 1)")
        sub.add_argument("--image-folder", help="pictures named ITEM_ID.jpg, .png, ..., or what --image-column names")
        sub.add_argument(
            "--extra", help="table with item_id and further columns for the template; image_url for images"
        )
        sub.add_argument("--max-bad-lines", type=float, metavar="SHARE", help="tolerated share (default: 0.01)")
        sub.add_argument(
            "--force",
            action="store_true",
            help="make it again even if nothing has changed, and replace what others made",
        )


def main(args: argparse.Namespace) -> int:
    given = {key: value for key, value in vars(args).items() if value is not None}
    known = set(DEFAULTS) | set(_own_options(get_source(args.source)))
    options = {key: value for key, value in given.items() if key in known}
    report = prepare_dataset(args.source, args.name, data_path=args.data_path, force=args.force, **options)
    for line in _summary(DatasetFolder(args.name, args.data_path), report):
        print(line)
    return 0


def _own_options(kind: type[Source]) -> dict[str, Any]:
    """Name -> default of what only this source has."""
    parser = argparse.ArgumentParser(add_help=False)
    kind.add_arguments(parser)
    return {action.dest: action.default for action in parser._actions}


def _dropped(counts: dict[str, Any], kept: int) -> str:
    """How many of the interactions that were read are left, and why the others are not."""
    reasons = {
        "with an unusable id": counts["unusable_id"],
        "without timestamp": counts["dropped_missing_timestamp"],
        "repeated": counts["dropped_duplicates"],
        "by k-core": counts["before_k_core"]["interactions"] - kept,
    }
    dropped = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
    return f"{kept:,} of {counts['read']:,} interactions kept; left out: {dropped or 'none'}"


def _summary(folder: DatasetFolder, report: dict[str, Any]) -> Iterator[str]:
    items = report["counts"]["items"]
    if report.get("already_done"):
        yield f"{folder.path}: nothing to do, inputs and options are as before (--force makes it again)"
    yield paper.table(report["statistics"], report["paper"])
    yield _dropped(report["counts"], report["statistics"]["interactions"])
    yield (
        f"items with text {items['with_text']:,}, with image {items['with_image']:,}, "
        f"without metadata {items['without_metadata']:,}"
    )
    for row in report["bad_lines"]:
        yield f"{row['file']}: {row['lines']:,} lines: {row['reason']} (first: line {row['first_lines'][0]})"
    for file in report["outdated_features"]:
        yield f"{file}: was made from other texts or images than these; run `recbole-prism encode {folder.name}` again"
    yield f"{report['seconds']} s; report: {folder.report}"
