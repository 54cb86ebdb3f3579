"""Scores of all items after given histories, by the model's own ``full_sort_predict``.

Shapes: B histories, L length, N items (padding included).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_prism.errors import PRISMError
from recbole_prism.models.table import MODELS
from recbole_prism.recommend.loaded import Loaded

# Backbones whose state after n items does not depend on how much padding follows: rows may be cut to the longest.
PADDING_FREE = ("SASRec", "GRU4Rec")
ROWS_AT_ONCE = 256
SCORES_AT_ONCE = 2**24  # 64 MiB


class Scorer:
    """Puts histories into the form that RecBole's evaluation gives them."""

    def __init__(self, loaded: Loaded) -> None:
        self.model, self.name = loaded.model, loaded.name
        settings = loaded.settings
        self.user_field = settings["USER_ID_FIELD"]
        self.items_field = settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]
        self.length_field = settings["ITEM_LIST_LENGTH_FIELD"]
        self.max_length = settings["MAX_ITEM_LIST_LENGTH"]
        self.n_items = len(loaded.catalogue.tokens)
        self.cut = MODELS.get(self.name, self.name) in PADDING_FREE

    @torch.no_grad()
    def scores(self, histories: Sequence[np.ndarray], users: Sequence[int] | None = None) -> Tensor:
        """[B, N] on the model's device; raises as ``batches``."""
        scores = torch.empty(len(histories), self.n_items, device=self.model.device)
        for rows, part in self.batches(histories, users):
            scores[torch.from_numpy(rows)] = part
        return scores

    @torch.no_grad()
    def batches(
        self, histories: Sequence[np.ndarray], users: Sequence[int] | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows [b] of histories, similar in length, and their scores [b, N], until all are done.

        Of a long history the last MAX_ITEM_LIST_LENGTH items count, as in RecBole. Raises PRISMError for models that
        score single items only, or need what a bare history has not.
        """
        self.model.eval()
        lengths = np.array([min(len(history), self.max_length) for history in histories])
        order = np.argsort(lengths, kind="stable")
        at_once = max(1, min(ROWS_AT_ONCE, SCORES_AT_ONCE // self.n_items))
        for start in range(0, len(order), at_once):
            rows = order[start : start + at_once]
            known = None if users is None else [users[row] for row in rows]
            yield rows, self._predict(self.interaction([histories[row] for row in rows], known))

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
