"""``encode``: feature files ``NAME.image.safetensors`` and ``NAME.text.safetensors``, resumable at any moment."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_prism.errors import PRISMError
from recbole_prism.features import read_features
from recbole_prism.prepare.encode_inputs import INPUTS
from recbole_prism.prepare.encode_options import DEFAULTS, add_arguments, complete
from recbole_prism.prepare.encoders import Encoder, choose_device, get_encoder
from recbole_prism.prepare.files import (
    DatasetFolder,
    add_to_report,
    atomic_write,
    fingerprint,
    json_lines,
    read_report,
    remove_leftovers,
    utc_now,
)
from recbole_prism.prepare.images import MADE_BY
from recbole_prism.prepare.pictures import pillow
from recbole_prism.prepare.pipeline import encode_all, in_threads
from recbole_prism.prepare.shards import Shards
from recbole_prism.prepare.vectors import encode_vectors
from recbole_prism.version import __version__

__all__ = ["add_arguments", "encode_dataset", "main"]


def encode_dataset(
    name: str,
    *,
    data_path: str | Path = "dataset",
    encoder: str = "open_clip",
    modalities: str | Sequence[str] | None = None,
    force: bool = False,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Encode a prepared dataset's modalities (default: all that the encoder can) and return modality -> report.

    ``options`` are the command line's, with underscores; DEFAULTS lists them. A killed run goes on with the shards
    that are missing; a finished one with the same inputs and options is left alone unless ``force``, and where a few
    inputs have changed only their shards are made again. Batch size, workers and device do not count as options here:
    they do not decide the vectors (beyond rounding).

    Raises:
        PRISMError: unknown encoder, model, checkpoint or option; nothing to encode; a package is not installed.
    """
    folder = DatasetFolder(name, data_path)
    modalities = [modalities] if isinstance(modalities, str) else modalities
    options = complete(options, modalities)
    if encoder == "vectors":
        return encode_vectors(folder, modalities, options)
    kind = get_encoder(encoder)
    wanted = list(dict.fromkeys(modalities or _at_hand(folder, kind.modalities)))
    if not set(wanted) <= set(kind.modalities):
        raise PRISMError(
            f"encoder {encoder!r} has {list(kind.modalities)}, not {sorted(set(wanted) - set(kind.modalities))}"
        )
    inputs = {modality: INPUTS[modality](folder, options) for modality in wanted}
    if "image" in wanted:
        pillow()
    loaded = kind(
        model=options["model"],
        pretrained=options["pretrained"],
        device=choose_device(options["device"]),
        precision=options["precision"],
    )
    return {m: _encode_one(folder, m, inputs[m], loaded, options, force, progress) for m in wanted}


def _at_hand(folder: DatasetFolder, modalities: tuple[str, ...]) -> list[str]:
    """Those of which `prepare` found anything; an image that is named but not downloaded is an error later."""
    files = {"image": "images.jsonl", "text": "texts.jsonl"}
    found = [m for m in modalities if folder.existing(files[m], MADE_BY).stat().st_size]
    if not found:
        raise PRISMError(f"{folder.path}: neither texts nor images of any item; see the report's counts")
    return found


def _encode_one(
    folder: DatasetFolder,
    modality: str,
    source: Any,
    encoder: Encoder,
    options: dict[str, Any],
    force: bool,
    progress: bool,
) -> dict[str, Any]:
    start = time.perf_counter()
    feature = options["feature_name"] or modality
    provenance = encoder.provenance(modality) | source.provenance()
    deciding = {key: options[key] for key in ("normalize", "dtype")}
    key = fingerprint([__version__, modality, provenance, source.key(), deciding])
    path = folder.file(f"{feature}.safetensors")
    done = read_report(folder).get("encode", {}).get(feature, {})
    if not force and done.get("fingerprint") == key and path.is_file() and path.stat().st_size == done["bytes"]:
        return {**done, "already_done": True}
    remove_leftovers(folder.path)
    work = folder.work("encode")
    size = options["shard_items"]
    made_with = fingerprint([__version__, modality, encoder.provenance(modality), source.options(), deciding, size])
    shard_folder = work / f"{feature}-{made_with}"
    if force:
        shutil.rmtree(shard_folder, ignore_errors=True)
    shards = Shards(shard_folder, source.item_ids, source.stamps, size, options["dtype"])
    skipped_path = folder.file(f"{feature}.skipped.jsonl")
    if not force and done.get("made_with") == made_with:
        with contextlib.suppress(PRISMError, OSError):  # what is gone or damaged is made again
            earlier, skipped = read_features(path), list(json_lines(skipped_path))
            if earlier.metadata.get("fingerprint") == done["fingerprint"]:
                shards.take_over(earlier, skipped, done["shards"])
    n_encoded = _fill(shards, source, modality, encoder, options, progress)
    metadata = {
        **provenance,
        "normalized": "true" if options["normalize"] else "false",
        "fingerprint": key,
        "date": utc_now(),
        "created_by": f"recbole-prism {__version__} encode",
    }
    rows, dimension, problems = shards.join(path, metadata)
    with atomic_write(skipped_path) as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in problems)
    n_items = sum(map(bool, source.stamps))
    section = {
        "fingerprint": key,
        "made_with": made_with,
        "shards": shards.digests,
        "file": path.name,
        "bytes": path.stat().st_size,
        "options": {k: v for k, v in options.items() if v is not None},
        "device": encoder.device,
        "provenance": metadata,
        "counts": {
            "items": n_items,
            "rows": rows,
            "dimension": dimension,
            "skipped": n_items - rows,
            "encoded_in_this_run": n_encoded,
        },
        "reasons": dict(Counter(row["reason"].split(":")[0] for row in problems).most_common(50)),
        "seconds": round(time.perf_counter() - start, 3),
    }
    add_to_report(folder, "encode", {**read_report(folder).get("encode", {}), feature: section})
    for old in work.glob(f"{feature}-????????????"):
        shutil.rmtree(old, ignore_errors=True)
    if not any(work.iterdir()):
        work.rmdir()
    return section


def _fill(shards: Shards, source: Any, modality: str, encoder: Encoder, options: dict[str, Any], progress: bool) -> int:
    """Make the missing shards; the number of items worked on."""
    todo = shards.todo()
    size = shards.size
    wanted = {p for number in todo for p in range(number * size, min((number + 1) * size, shards.n_items))}
    if not wanted:
        return 0
    workers = options["workers"] or min(8, os.cpu_count() or 1)
    batch_size = options["batch_size"]
    last = {number: min((number + 1) * size, shards.n_items) - 1 for number in todo}
    vectors: dict[str, np.ndarray] = {}
    skipped: list[dict[str, str]] = []
    groups = in_threads(
        lambda job: source.prepare(encoder, job), source.jobs(wanted), workers, ahead=2 * workers + 2 * batch_size
    )
    prepared = (item for group in groups for item in group)
    with tqdm(total=len(wanted), unit="item", desc=modality, disable=None if progress else True) as bar:
        batches = encode_all(
            lambda batch: encoder.encode(modality, batch), prepared, batch_size, bool(options["normalize"])
        )
        for item in batches:
            if item.vector is not None:
                vectors[item.item_id] = item.vector
            skipped += item.problems
            bar.update()
            number = item.position // size
            if item.position == last[number]:
                shards.write(number, vectors, skipped)
                vectors, skipped = {}, []
    return sum(bool(source.stamps[position]) for position in wanted)


def main(args: argparse.Namespace) -> int:
    options = {key: getattr(args, key) for key in DEFAULTS}
    reports = encode_dataset(
        args.name,
        data_path=args.data_path,
        encoder=args.encoder,
        modalities=args.modalities,
        force=args.force,
        **options,
    )
    for modality, report in reports.items():
        counts = report["counts"]
        state = "nothing to do, as before" if report.get("already_done") else f"{report['seconds']} s"
        print(f"{modality}: {counts['rows']:,} of {counts['items']:,} items, {counts['dimension']} dimensions; {state}")
        for reason, count in report["reasons"].items():
            print(f"  {count:>8,}  {reason}")
    return 0
