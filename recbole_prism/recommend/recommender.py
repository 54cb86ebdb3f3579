"""``Recommender``: the best items for users and for sequences, from a checkpoint or a bundle.

Shapes: B histories, L length, N items (padding included), k recommendations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_prism.devices import check_device
from recbole_prism.errors import PRISMError
from recbole_prism.recommend.loaded import Loaded
from recbole_prism.recommend.scoring import Scorer, best_items


class Recommendation(NamedTuple):
    """One item; ``title`` is empty where none is known."""

    item: str
    score: float
    title: str = ""


class Chunk(NamedTuple):
    """Users and their best items: users [B] tokens, ids [B, k], scores [B, k]; -inf where fewer than k remain."""

    users: list[str]
    ids: np.ndarray
    scores: np.ndarray


class Recommender:
    """Ranks the items of a catalogue after a history.

    Scores are those of RecBole's ``full_sort_predict`` for the same input. By default a user's whole history counts,
    and items in it are not recommended again; ``history="test", seen="keep"`` is what RecBole's evaluation ranks.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.catalogue = loaded.catalogue
        self.scorer = Scorer(loaded)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        data_path: str | None = None,
        title_field: str | None = None,
        device: str = "cpu",
    ) -> Recommender:
        """From a checkpoint or a bundle.

        Of a checkpoint, ``data_path`` is the folder of datasets (None: as when it was trained) and ``title_field`` the
        field of the .item file with titles. Raises PRISMError for files that are neither, or do not fit, and for a
        device that is not there.
        """
        return cls(load(path, data_path=data_path, title_field=title_field, device=device))

    def with_new_items(self, files: Mapping[str, str | Path], spread: float = 0.0) -> Recommender:
        """The same over a catalogue with the unknown items of feature files {modality: path} added.

        ``spread`` from 0 to 1: how easily they come before known ones (``newitems.with_new_items``).
        """
        from recbole_prism.recommend.newitems import with_new_items

        return Recommender(with_new_items(self.loaded, files, spread))

    # -- answers -----------------------------------------------------------------------------------------------------

    def for_user(self, user: str, k: int | None = None, **options) -> list[Recommendation]:
        """Best items for one user token; options as in ``stream``."""
        return self.for_users([user], k, **options)[0]

    def for_users(self, users: Sequence[str], k: int | None = None, **options) -> list[list[Recommendation]]:
        """Best items for user tokens, in their order; options as in ``stream``."""
        return [row for chunk in self.stream(users, k, **options) for row in self.named(chunk)]

    def for_sequence(self, items: Sequence[str], k: int | None = None, **options) -> list[Recommendation]:
        """Best items after a sequence of item tokens, oldest first; options as in ``chunk_for_sequence``."""
        return self.named(self.chunk_for_sequence(items, k, **options))[0]

    def chunk_for_sequence(
        self,
        items: Sequence[str],
        k: int | None = None,
        *,
        seen: str = "drop",
        only: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
    ) -> Chunk:
        """One row for a user without a name. Raises PRISMError for an empty sequence and unknown items."""
        history = np.array(self.catalogue.ids(items), dtype=np.int64)
        if not len(history):
            raise PRISMError("the sequence is empty; name at least one item")
        _check_seen(seen)
        k, candidates = self._candidates(k, only, exclude)
        return Chunk([""], *self._top([history], None, k, seen, candidates))

    def stream(
        self,
        users: Sequence[str] | None = None,
        k: int | None = None,
        *,
        seen: str = "drop",
        only: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        history: str = "full",
        chunk_size: int = 4096,
    ) -> Iterator[Chunk]:
        """Best items of users (None: of all who have the history asked for), a chunk at a time.

        ``seen`` keep or drop: whether items of the history may be recommended; ``only`` and ``exclude``: item tokens;
        ``history``: full, or what RecBole's protocol shows the model for valid or test. Raises PRISMError at once,
        before the first chunk, for unknown users or items, users without such a history, k beyond the candidates.
        ``k``: ten unless said, or as many as there are in ``only``.
        """
        _check_seen(seen)
        if history not in ("full", "valid", "test"):
            raise PRISMError(f"history: {history!r} is not allowed; must be one of ['full', 'valid', 'test']")
        histories = self.loaded.users()
        k, candidates = self._candidates(k, only, exclude)
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise PRISMError(f"chunk_size: {chunk_size!r} is not allowed; must be an integer of at least 1")
        if users is None:
            ids = [user for user in range(1, len(histories.tokens)) if histories.has(user, history)]
        else:
            ids = histories.ids(users)
            empty = [histories.tokens[user] for user in ids if not histories.has(user, history)]
            if empty:
                raise PRISMError(f"user {empty[0]!r} has no {history} history ({len(empty)} of {len(ids)} users)")
        return self._chunks(ids, k, seen, candidates, history, chunk_size)

    def _chunks(self, users, k, seen, candidates, history, size) -> Iterator[Chunk]:
        histories = self.loaded.users()
        for start in range(0, len(users), size):
            part = users[start : start + size]
            items = [histories.history(user, history) for user in part]
            ids, scores = self._top(items, part, k, seen, candidates)
            yield Chunk([histories.tokens[user] for user in part], ids, scores)

    def named(self, chunk: Chunk) -> list[list[Recommendation]]:
        """Tokens and titles for ids; drops what fills a row of which fewer than k items remain."""
        tokens, title = self.catalogue.tokens, self.catalogue.title
        return [
            [
                Recommendation(tokens[item], float(score), title(tokens[item]))
                for item, score in zip(ids, scores, strict=True)
                if score > -np.inf
            ]
            for ids, scores in zip(chunk.ids, chunk.scores, strict=True)
        ]

    # -- ranking -----------------------------------------------------------------------------------------------------

    def _candidates(
        self, k: int | None, only: Iterable[str] | None, exclude: Iterable[str] | None
    ) -> tuple[int, Tensor | None]:
        """k, and bool [N], or None if every item may be recommended. Raises PRISMError if k are not there."""
        if k is not None and (isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1):
            raise PRISMError(f"k: {k!r} is not allowed; must be an integer of at least 1")
        excluded = self.catalogue.ids(exclude or ())
        allowed = None
        if only is not None or excluded:
            allowed = torch.full((len(self.catalogue.tokens),), only is None)
            if only is not None:
                allowed[self.catalogue.ids(only)] = True
            allowed[excluded] = False
            allowed[0] = False
        n_candidates = len(self.catalogue) if allowed is None else int(allowed.sum())
        if k is None and only is not None:
            k = max(1, min(10, n_candidates))
        k = 10 if k is None else int(k)
        if k > n_candidates:
            raise PRISMError(f"k: {k} items asked for, and there are {n_candidates} to choose from")
        return k, allowed

    def _top(self, histories, users, k: int, seen: str, candidates: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """ids [B, k] and scores [B, k], best first."""
        ids = np.empty((len(histories), k), dtype=np.int64)
        values = np.empty((len(histories), k), dtype=np.float32)
        with self.loaded.lock:
            for rows, scores in self.scorer.batches(histories, users):
                scores[:, 0] = -torch.inf
                if candidates is not None:
                    scores[:, ~candidates.to(scores.device)] = -torch.inf
                if seen == "drop":
                    some = [histories[row] for row in rows]
                    owner = np.repeat(np.arange(len(rows)), [len(history) for history in some])
                    scores[torch.from_numpy(owner), torch.from_numpy(np.concatenate(some))] = -torch.inf
                best, columns = best_items(scores, k)
                ids[rows], values[rows] = columns.cpu().numpy(), best.float().cpu().numpy()
        return ids, values


def load(
    path: str | Path, *, data_path: str | None = None, title_field: str | None = None, device: str = "cpu"
) -> Loaded:
    """A checkpoint or a bundle, whichever the path is."""
    from recbole_prism.recommend.bundle import is_bundle, load_bundle
    from recbole_prism.recommend.checkpoint import load_checkpoint
    from recbole_prism.register import register

    register()
    path = Path(path)
    check_device(device)
    if not path.exists():
        raise PRISMError(f"{path}: no such checkpoint or bundle")
    if not is_bundle(path):
        return load_checkpoint(path, data_path=data_path, title_field=title_field, device=device)
    for name, value in (("data_path", data_path), ("title_field", title_field)):
        if value:
            raise PRISMError(f"{path}: a bundle brings its own titles and needs no dataset; {name} does not apply")
    return load_bundle(path, device=device)


def _check_seen(seen: str) -> None:
    if seen not in ("keep", "drop"):
        raise PRISMError(f"seen: {seen!r} is not allowed; must be one of ['keep', 'drop']")
