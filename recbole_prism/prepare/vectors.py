"""Vectors the user already has -> a feature file with provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_prism.datasets import check_dataset
from recbole_prism.errors import PRISMError
from recbole_prism.features import FeatureFile, check_features, read_features, read_ids, write_features
from recbole_prism.prepare.existing import Existing
from recbole_prism.prepare.files import MODALITY, DatasetFolder, add_to_report, read_report, sha256, utc_now
from recbole_prism.version import __version__


def encode_vectors(folder: DatasetFolder, modalities: Sequence[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Write ``--vectors`` as ``NAME.MODALITY.safetensors``; returns {modality: report}.

    Raises:
        PRISMError: no such dataset, no file, no ids, ids of another dataset, sizes that disagree, duplicate ids, NaN or
            Inf, numbers that the type of the file cannot hold.
    """
    if not folder.path.is_dir():
        check_dataset(folder.name, str(folder.path.parent))
    if not options["vectors"] or len(modalities or ()) != 1 or not MODALITY.fullmatch(modalities[0]):
        raise PRISMError("--encoder vectors needs --vectors FILE and one --modality NAME (small letters, digits, '_')")
    path = Path(options["vectors"])
    if options["ids"]:
        if not path.is_file() or not Path(options["ids"]).is_file():
            raise PRISMError(f"{path} or {options['ids']}: no such file")
        if path.suffix != ".npy":
            raise PRISMError(f"{path}: --ids goes with a .npy file")
        try:
            matrix = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise PRISMError(f"{path}: not a .npy file of numbers ({error})") from error
        found = FeatureFile(read_ids(Path(options["ids"])), _numbers(path, matrix))
        check_features(path, found)
    else:
        found = read_features(path)
        _numbers(path, found.features)
    stored = _stored(path, found, options)
    n_items, n_others = _items(folder, path, found.item_ids)
    feature = options["feature_name"] or modalities[0]
    target = folder.file(f"{feature}.safetensors")
    metadata = {
        "encoder": found.metadata.get("encoder", "vectors of the user"),
        "revision": f"sha256:{sha256(path)}",
        "normalized": "true" if options["normalize"] else "false",
        "source": path.name,
        "date": utc_now(),
        "created_by": f"recbole-prism {__version__} encode",
    }
    write_features(target, found.item_ids, stored, **metadata)
    section = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "options": {k: v for k, v in options.items() if v is not None},
        "provenance": metadata,
        "counts": {"items": n_items, "rows": len(stored) - n_others, "dimension": stored.shape[1], "skipped": 0},
        "reasons": {"vectors of items that the dataset does not have": n_others} if n_others else {},
        "seconds": 0.0,
    }
    add_to_report(folder, "encode", {**read_report(folder).get("encode", {}), feature: section})
    return {feature: section}


def _numbers(path: Path, matrix: np.ndarray) -> np.ndarray:
    if matrix.dtype.kind not in "biuf":
        raise PRISMError(f"{path}: holds {matrix.dtype}; real numbers are needed")
    return matrix


def _stored(path: Path, found: FeatureFile, options: dict[str, Any]) -> np.ndarray:
    """The features [N, d] as the file will hold them. Raises PRISMError for numbers too large or too small for it."""
    features, dtype = found.features, options["dtype"]
    if options["normalize"]:  # squares of float32 numbers may be beyond float32
        lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        features = features / np.where(lengths > 0, lengths, 1)
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        hint = "use --dtype float32" if dtype == "float16" else "divide them all by the largest"
        raise PRISMError(f"{path}: numbers up to {np.abs(features).max():.3g} do not fit {dtype}; {hint}")
    lost = np.flatnonzero(found.features.any(axis=1) & ~stored.any(axis=1))
    if len(lost):
        tokens = [found.item_ids[row] for row in lost[:3]]
        hint = "use --dtype float32" if dtype == "float16" else "multiply them all by a large number"
        raise PRISMError(
            f"{path}: {len(lost)} rows are too small for {dtype} and become zero (first: {tokens}); {hint}"
        )
    return stored


def _items(folder: DatasetFolder, path: Path, item_ids: list[str]) -> tuple[int, int]:
    """Number of the dataset's items, and of the ids that are none of them; before `prepare` all ids are items.

    Raises:
        PRISMError: not one of the ids is the dataset's.
    """
    existing = Existing(folder)
    files = list(filter(None, map(existing.file, ("item", "inter"))))
    if not files:
        return len(item_ids), 0
    items = {item for file in files for (item,) in existing.columns(file, "ITEM_ID_FIELD")}
    n_others = sum(item not in items for item in item_ids)
    if n_others == len(item_ids):
        raise PRISMError(
            f"{path}: no id is that of an item in {files[0]} (ids: {item_ids[:3]}, items: {sorted(items)[:3]}); "
            "are these vectors of another dataset?"
        )
    return len(items), n_others
