"""Vectors the user already has -> a feature file with provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_prism.datasets import check_dataset
from recbole_prism.errors import PRISMError
from recbole_prism.features import FeatureFile, check_features, read_features, read_ids, write_features
from recbole_prism.prepare.files import MODALITY, DatasetFolder, add_to_report, read_report, sha256, utc_now
from recbole_prism.version import __version__


def encode_vectors(folder: DatasetFolder, modalities: Sequence[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Write ``--vectors`` as ``NAME.MODALITY.safetensors``; returns {modality: report}.

    Raises:
        PRISMError: no such dataset, no file, no ids, sizes that disagree, duplicate ids, NaN or Inf.
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
        found = FeatureFile(read_ids(Path(options["ids"])), matrix)
        check_features(path, found)
    else:
        found = read_features(path)
    features = found.features.astype(np.float32)
    if options["normalize"]:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(lengths > 0, lengths, 1)
    if options["dtype"] == "float16" and features.size and np.abs(features).max() > 65504:
        raise PRISMError(f"{path}: numbers up to {np.abs(features).max():.3g} do not fit float16; use --dtype float32")
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
    write_features(target, found.item_ids, features.astype(options["dtype"]), **metadata)
    section = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "options": {k: v for k, v in options.items() if v is not None},
        "provenance": metadata,
        "counts": {"items": len(found.item_ids), "rows": len(features), "dimension": features.shape[1], "skipped": 0},
        "reasons": {},
        "seconds": 0.0,
    }
    add_to_report(folder, "encode", {**read_report(folder).get("encode", {}), feature: section})
    return {feature: section}
