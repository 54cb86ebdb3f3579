"""What can be seen in a matrix of features without a model: health figures and nearest items."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

_ROWS = 1 << 15


def health(item_ids: list[str], features: np.ndarray, dataset_items: Container[str]) -> dict[str, Any]:
    """Coverage, norms, equal rows and dimensions that hardly vary; features [N, d] of any float type.

    ``near_constant_dimensions``: those whose standard deviation is below a hundredth of the largest one.
    ``equal_groups``: groups of items with exactly the same vector, largest first, at most ten ids each.
    """
    norms, total, squares = [], 0.0, 0.0
    same: dict[bytes, list[int]] = {}
    for start in range(0, len(features), _ROWS):
        block = features[start : start + _ROWS].astype(np.float64)
        norms.append(np.linalg.norm(block, axis=1))
        total, squares = total + block.sum(axis=0), squares + (block**2).sum(axis=0)
        for row in range(len(block)):
            same.setdefault(features[start + row].tobytes(), []).append(start + row)
    lengths = np.concatenate(norms) if norms else np.zeros(1)
    mean = total / max(len(features), 1)
    spread = np.sqrt(np.maximum(squares / max(len(features), 1) - mean**2, 0))
    groups = sorted((rows for rows in same.values() if len(rows) > 1), key=len, reverse=True)
    return {
        "rows": len(item_ids),
        "dimension": int(features.shape[1]),
        "type": str(features.dtype),
        "covered_items": sum(item in dataset_items for item in item_ids),
        "rows_of_other_items": sum(item not in dataset_items for item in item_ids),
        "norm": {"min": float(lengths.min()), "median": float(np.median(lengths)), "max": float(lengths.max())},
        "zero_vectors": int((lengths == 0).sum()),
        "near_constant_dimensions": int((spread <= 0.01 * spread.max(initial=0)).sum()),
        "items_with_equal_features": sum(map(len, groups)),
        "equal_groups": [[item_ids[row] for row in rows[:10]] for rows in groups[:5]],
    }


def nearest(features: np.ndarray, row: int, n: int = 5) -> list[tuple[int, float]]:
    """(row, cosine) of the n rows most like ``row``, itself excluded; equal ones in file order. Zero rows have 0."""
    query = features[row].astype(np.float32)
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    scores = np.empty(len(features), np.float32)
    for start in range(0, len(features), _ROWS):
        block = features[start : start + _ROWS].astype(np.float32)
        lengths = np.maximum(np.linalg.norm(block, axis=1), 1e-12)
        scores[start : start + _ROWS] = block @ query / lengths
    scores[row] = -np.inf
    order = np.argsort(-scores, kind="stable")[: min(n, len(features) - 1)]
    return [(int(other), float(scores[other])) for other in order]
