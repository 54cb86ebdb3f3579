"""Scores of all items after given histories, and the best of them.

The model's own ``full_sort_predict`` gives the scores; for SASRec and GRU4Rec the same without padding.
Shapes: B histories, L length, N items (padding included).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_prism.errors import PRISMError
from recbole_prism.models.table import backbone_of
from recbole_prism.recommend.loaded import Loaded
from recbole_prism.training.encoders import PACKED
from recbole_prism.training.kernels import use_fast_kernels
from recbole_prism.training.modes import why_not_encoded
from recbole_prism.training.packing import Windows, pack

# Backbones whose state after n items does not depend on how much padding follows: rows may be cut to the longest.
PADDING_FREE = ("SASRec", "GRU4Rec")
ROWS_AT_ONCE = 256
TOKENS_AT_ONCE = 2**13
MULTIPLE = 32  # rows of a product whose number is none of it take up to half as long again
SCORES_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}  # on a CPU they are still in its cache when the best are looked for


class Scorer:
    """Puts histories into the form that RecBole's evaluation gives them."""

    def __init__(self, loaded: Loaded) -> None:
        self.model, self.name, self.lock = loaded.model, loaded.name, loaded.lock
        settings = loaded.settings
        self.user_field = settings["USER_ID_FIELD"]
        self.items_field = settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]
        self.length_field = settings["ITEM_LIST_LENGTH_FIELD"]
        self.max_length = settings["MAX_ITEM_LIST_LENGTH"]
        self.n_items = len(loaded.catalogue.tokens)
        backbone = backbone_of(self.name)
        self.cut = backbone in PADDING_FREE
        self.encode = PACKED[backbone] if self.cut and not why_not_encoded(settings, backbone) else None
        if self.encode:
            use_fast_kernels(self.model)

    @torch.no_grad()
    def scores(self, histories: Sequence[np.ndarray], users: Sequence[int] | None = None) -> Tensor:
        """[B, N] on the model's device; raises as ``batches``."""
        scores = torch.empty(len(histories), self.n_items, device=self.model.device)
        with self.lock:
            for rows, part in self.batches(histories, users):
                scores[torch.from_numpy(rows)] = part
        return scores

    @torch.no_grad()
    def batches(
        self, histories: Sequence[np.ndarray], users: Sequence[int] | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows [b] of histories, similar in length, and their scores [b, N], until all are done.

        Scores are overwritten by the next batch. Whoever shares the model with other threads holds ``lock``.
        Of a long history the last MAX_ITEM_LIST_LENGTH items count, as in RecBole. Raises PRISMError for models that
        score single items only, or need what a bare history has not.
        """
        self.model.eval()
        lengths = np.array([min(len(history), self.max_length) for history in histories])
        order = np.argsort(lengths, kind="stable")
        at_once = max(1, SCORES_AT_ONCE.get(self.model.device.type, SCORES_AT_ONCE["cpu"]) // self.n_items)
        at_once -= at_once % MULTIPLE if at_once > MULTIPLE else 0
        if self.encode:
            yield from self._packed_batches(histories, lengths, order, at_once)
            return
        at_once = min(ROWS_AT_ONCE, at_once)
        for start in range(0, len(order), at_once):
            rows = order[start : start + at_once]
            known = None if users is None else [users[row] for row in rows]
            yield rows, self._predict(self.interaction([histories[row] for row in rows], known))

    def _packed_batches(self, histories, lengths, order, at_once: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The same, encoded without padding; some thousand tokens at a time, whatever the number of scores."""
        table = self.model.item_embedding.weight[: self.n_items]
        by_item = table.new_empty(self.n_items, at_once)  # the product is a third faster this way round
        part = np.cumsum(lengths[order]) // TOKENS_AT_ONCE
        for encoded in np.split(order, np.flatnonzero(np.diff(part)) + 1):
            states = self._states([histories[row] for row in encoded], lengths[encoded])
            weights = getattr(self.model, "expert_weights", None)  # of all that is encoded
            for start in range(0, len(encoded), at_once):
                some = states[start : start + at_once]
                if weights is not None:
                    self.model.expert_weights = weights[start : start + at_once]
                scores = torch.mm(table, some.t(), out=by_item if len(some) == at_once else None)
                yield encoded[start : start + at_once], scores.t()

    def _states(self, histories: Sequence[np.ndarray], lengths: np.ndarray) -> Tensor:
        """State after each history, of which the last ``lengths`` [B] items count, in ascending order: [B, D]."""
        ends = np.cumsum([len(history) for history in histories])
        batch = pack(np.concatenate(histories), Windows(ends - lengths, lengths, lengths - 1))
        return self.encode(self.model, batch.to(self.model.device))

    def interaction(self, histories: Sequence[np.ndarray], users: Sequence[int] | None = None) -> Interaction:
        """What RecBole's evaluation hands to a model: item_id_list [B, L], item_length [B], user_id [B] if known."""
        lengths = [min(len(history), self.max_length) for history in histories]
        items = np.zeros((len(histories), max(lengths) if self.cut else self.max_length), dtype=np.int64)
        for row, (history, length) in enumerate(zip(histories, lengths, strict=True)):
            items[row, :length] = history[len(history) - length :]
        fields = {self.items_field: torch.from_numpy(items), self.length_field: torch.tensor(lengths)}
        if users is not None:
            fields[self.user_field] = torch.tensor(users)
        return Interaction(fields).to(self.model.device)

    def _predict(self, interaction: Interaction) -> Tensor:
        try:
            scores = self.model.full_sort_predict(interaction)
        except NotImplementedError as error:
            raise PRISMError(f"{self.name} scores one item at a time and cannot rank the whole catalogue") from error
        except KeyError as error:
            raise PRISMError(
                f"{self.name} needs {error} beside the items of the history, which only users of the dataset have"
            ) from error
        return scores.view(len(interaction), -1)[:, : self.n_items]


def best_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns [B, k] of the k largest scores [B, N], best first, as torch.topk has them.

    Scores that lie in memory item by item are dealt to groups. The k groups with the largest maxima hold the k largest
    scores, so that only these are sorted. Of equal scores any may come first.
    """
    n = scores.shape[1]
    size = int((n / (2 * k)) ** 0.5)  # items in a group
    if scores.stride(0) != 1 or size < 4:
        best = torch.topk(scores, k)
        return best.values, best.indices
    n_groups = n // size
    whole = n_groups * size
    maxima = scores.t()[:whole].unflatten(0, (size, n_groups)).amax(0)  # group g: items g, g + n_groups, ...
    groups = torch.topk(maxima.t().contiguous(), k, sorted=False).indices
    members = n_groups * torch.arange(size, device=scores.device)
    items = (groups.unsqueeze(1) + members.unsqueeze(1)).flatten(1)  # [B, size k]
    rest = torch.arange(whole, n, device=scores.device).expand(len(scores), n - whole)
    items = torch.cat([items, rest], 1)
    best = torch.topk(scores.gather(1, items), k)
    return best.values, items.gather(1, best.indices)
