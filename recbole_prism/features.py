"""Feature files: read, write, and align to RecBole's item ids by token (never by row order).

``NAME.MODALITY.safetensors`` holds ``features`` [N, d] (float16 or float32) and, in its metadata, ``item_ids``: a JSON
list of N item tokens in row order. ``.npy`` beside ``.ids.txt``, ``.pt`` and RecBole atomic files are read too.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_prism.errors import PRISMError


@dataclass
class FeatureFile:
    """Vectors of one modality: ``features[n]`` [N, d] belongs to the item token ``item_ids[n]``."""

    item_ids: list[str]
    features: np.ndarray
    metadata: dict[str, str] = field(default_factory=dict)


def write_features(path: str | os.PathLike, item_ids: Sequence[str], features: np.ndarray, **metadata: str) -> None:
    """Write a feature file, atomically.

    Metadata by convention: encoder, revision, normalized, source, created_by; all strings.
    Raises PRISMError on duplicate ids, NaN or Inf, sizes that disagree, or a disk that is full.
    """
    from safetensors.numpy import save

    path, item_ids = Path(path), [str(token) for token in item_ids]
    features = _as_floats(path, np.ascontiguousarray(features))
    check_features(path, FeatureFile(item_ids, features))
    strings = {key: str(value) for key, value in metadata.items()}
    payload = save({"features": features}, metadata=strings | {"item_ids": json.dumps(item_ids)})
    write_atomically(path, payload)


def write_atomically(path: str | os.PathLike, payload: bytes) -> None:
    """Write bytes under a temporary name in the same folder, then rename. Raises PRISMError if the disk refuses."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(temporary, 0o666 & ~umask())  # mkstemp's is for nobody else
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        message = f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
        raise PRISMError(message) from error


def umask() -> int:
    """Permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_features(path: str | os.PathLike) -> FeatureFile:
    """Read a feature file of any known format (by suffix) and check it. Raises PRISMError naming the file."""
    path = Path(path)
    if path.suffix not in READERS:
        raise PRISMError(f"{path}: unknown kind of feature file; known: {', '.join(sorted(READERS))}")
    if not path.is_file():
        raise PRISMError(f"{path}: no such feature file; make it with `recbole-prism encode` or correct `modalities`")
    try:
        contents = READERS[path.suffix](path)
    except PRISMError:
        raise
    except Exception as error:  # each reader's library has its own errors; all of them mean an unreadable file
        raise PRISMError(f"{path}: cannot be read as {path.suffix} features ({error}); make the file again") from error
    contents.features = _as_floats(path, contents.features)
    check_features(path, contents)
    return contents


def _as_floats(path: Path, features: np.ndarray) -> np.ndarray:
    """float16 and float32 as they are, other numbers as float32. Raises PRISMError for what are no real numbers."""
    if features.dtype.kind not in "fiub":
        raise PRISMError(f"{path}: features are of type {features.dtype}; must be real numbers")
    with np.errstate(over="ignore"):  # what is too large becomes Inf, which is refused
        return features if features.dtype in (np.float16, np.float32) else features.astype(np.float32)


def _read_safetensors(path: Path) -> FeatureFile:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata() or {})
        if "features" not in file.keys() or "item_ids" not in metadata:
            raise PRISMError(f"{path}: needs a tensor 'features' and metadata 'item_ids' (a JSON list of item tokens)")
        item_ids = json.loads(metadata.pop("item_ids"))
        return FeatureFile([str(token) for token in item_ids], file.get_tensor("features"), metadata)


def _read_npy(path: Path) -> FeatureFile:
    ids = path.with_suffix(".ids.txt")
    if not ids.is_file():
        raise PRISMError(f"{ids}: missing; {path.name} needs its item tokens there, one a line, in row order")
    return FeatureFile(read_ids(ids), np.load(path, allow_pickle=False))


def read_ids(path: Path) -> list[str]:
    """Item tokens, one a line, without spaces around them or a byte order mark before them."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]


def _read_pt(path: Path) -> FeatureFile:
    import torch

    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = "'item_ids' as a list of tokens and 'features' as a torch tensor"
        raise PRISMError(f"{path}: cannot be read without unpickling; save {wanted}") from error
    if not isinstance(contents, dict) or not {"item_ids", "features"} <= contents.keys():
        raise PRISMError(f"{path}: needs a dict with 'item_ids' (list of tokens) and 'features' [N, d]")
    item_ids, features = contents["item_ids"], torch.as_tensor(contents["features"])
    item_ids = item_ids.tolist() if isinstance(item_ids, torch.Tensor) else item_ids
    features = features if features.is_complex() else features.float()
    return FeatureFile([str(token) for token in item_ids], features.numpy())


def _read_atomic(path: Path) -> FeatureFile:
    """A RecBole atomic file: a token column first, and one ``float_seq`` column."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t")  # quoted as pandas, and so RecBole, reads it
        header = next(rows)
        columns = [n for n, name in enumerate(header) if name.endswith(":float_seq")]
        if not header[0].endswith(":token") or len(columns) != 1:
            raise PRISMError(f"{path}: needs a :token column first and exactly one :float_seq column, has {header}")
        item_ids, vectors = [], []
        for row in rows:
            item_ids.append(row[0])
            vectors.append(np.array(row[columns[0]].split(), dtype=np.float32))
    if len({len(vector) for vector in vectors}) > 1:
        raise PRISMError(f"{path}: vectors of different lengths in column {header[columns[0]]!r}")
    return FeatureFile(item_ids, np.stack(vectors) if vectors else np.empty((0, 0), np.float32))


READERS: dict[str, Callable[[Path], FeatureFile]] = {
    ".safetensors": _read_safetensors,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".item": _read_atomic,
    ".itememb": _read_atomic,
}


def check_features(path: str | os.PathLike, contents: FeatureFile) -> None:
    """Raise PRISMError on sizes that disagree, duplicate tokens, NaN or Inf."""
    features, item_ids = contents.features, contents.item_ids
    if features.ndim != 2 or features.shape[0] != len(item_ids) or features.shape[1] == 0:
        raise PRISMError(f"{path}: features of shape {list(features.shape)} for {len(item_ids)} item ids; need [N, d]")
    if len(set(item_ids)) != len(item_ids):
        seen: set[str] = set()
        duplicates = [token for token in item_ids if token in seen or seen.add(token)]
        raise PRISMError(
            f"{path}: {len(duplicates)} duplicate item ids (first: {duplicates[:3]}); keep one row an item"
        )
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        tokens = [item_ids[n] for n in broken[:3]]
        raise PRISMError(
            f"{path}: {len(broken)} rows hold NaN, Inf or too large numbers (first items: {tokens}); encode them again"
        )


@dataclass
class Aligned:
    """One modality on RecBole's ids: features float32 [n_items, d], covered bool [n_items]; row 0 is padding."""

    features: np.ndarray
    covered: np.ndarray
    encoder: str = "unknown"


def align(contents: FeatureFile, tokens: Sequence[str], *, path: str | os.PathLike = "features") -> Aligned:
    """Put rows where RecBole's ids want them: ``tokens[i]`` is the token of internal item id i (tokens[0] is [PAD]).

    Row order and extra items in the file do not matter; items without a row are not covered and zero.
    Raises PRISMError if not a single item of the dataset is in the file.
    """
    row_of = {token: row for row, token in enumerate(contents.item_ids)}
    rows = np.array([row_of.get(str(token), -1) for token in tokens])
    rows[0] = -1
    covered = rows >= 0
    if not covered.any():
        raise PRISMError(
            f"{path}: no item in common with the dataset (file: {contents.item_ids[:3]}, "
            f"dataset: {[str(token) for token in tokens[1:4]]}); are these features of another dataset?"
        )
    features = np.zeros((len(tokens), contents.features.shape[1]), dtype=np.float32)
    for part in blocks(len(rows)):
        features[part][covered[part]] = contents.features[rows[part][covered[part]]]
    return Aligned(features, covered, contents.metadata.get("encoder", "unknown"))


@dataclass
class Scaling:
    """How one modality's raw features become what a model sees: (x - mean) / spread, or x / |x| / spread.

    kind: a value of ``feature_scaling``; mean, spread: float32 [d].
    """

    kind: str
    mean: np.ndarray
    spread: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Raw features [n, d] -> scaled float32 [n, d]."""
        if self.kind == "unit":
            lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
            return (features / lengths / self.spread).astype(np.float32)
        return ((features - self.mean) / self.spread).astype(np.float32)


def fit_scaling(aligned: Aligned, kind: str, fit_on: np.ndarray, length: float = 1.0) -> Scaling:
    """``standardize``: per dimension to mean 0 and equal variance over the covered items of ``fit_on`` (bool [n_items],
    the items seen in training), so that vectors have about the given length; ``unit``: each to that length.
    """
    size = aligned.features.shape[1]
    if kind != "standardize":
        spread = np.full(size, 1 / length if kind == "unit" else 1, np.float32)
        return Scaling(kind, np.zeros(size, np.float32), spread)
    sampled = aligned.covered & fit_on
    sampled = sampled if sampled.any() else aligned.covered
    mean, spread = np.empty(size), np.empty(size)
    for columns in blocks(size, 64):
        sample = aligned.features[:, columns][sampled]
        mean[columns], spread[columns] = sample.mean(axis=0, dtype=np.float64), sample.std(axis=0, dtype=np.float64)
    constant = spread <= np.maximum(1e-6 * np.abs(mean), 1e-8 * spread.max(initial=0.0))  # but for rounding
    spread = np.where(constant, 1.0, spread) * np.sqrt(size) / length
    return Scaling(kind, mean.astype(np.float32), spread.astype(np.float32))


def scale_features(aligned: Aligned, scaling: Scaling) -> np.ndarray:
    """Scaled features [n_items, d]; uncovered items stay zero."""
    if scaling.kind == "none":
        return aligned.features
    scaled = np.zeros_like(aligned.features)
    for part in blocks(len(scaled)):
        scaled[part] = np.where(aligned.covered[part, None], scaling(aligned.features[part]), 0.0)
    return scaled


def blocks(n_rows: int, size: int = 1 << 14) -> Iterator[slice]:
    """Parts of a table, so that what is computed on the way stays small beside it."""
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def digest_of_array(values: np.ndarray) -> str:
    """CRC-32 of its bytes."""
    whole = values if values.flags.c_contiguous else values.copy()
    return f"{zlib.crc32(memoryview(whole).cast('B')):08x}" if values.size else "empty"


def fingerprint_of(tokens) -> str:
    """SHA-256 of item tokens in the order of RecBole's ids."""
    return hashlib.sha256("\n".join(str(token) for token in tokens).encode()).hexdigest()


def check_fingerprint(trained: str | None, now: str) -> None:
    """Raise PRISMError if a checkpoint's items are not those of the dataset, or in another order; None: not known."""
    if trained not in (None, now):
        raise PRISMError("the checkpoint was trained on other items than this dataset has; check dataset and filtering")
