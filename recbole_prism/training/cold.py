"""Items of the catalogue without a training interaction, scored by embeddings predicted from their features."""

from __future__ import annotations

from logging import getLogger

import numpy as np
import torch
from torch import Tensor

from recbole_prism.feature_map import TABLES, FeatureMap
from recbole_prism.recommend.standin import model_features
from recbole_prism.training.dataset import PLACE


class ColdItemsMixin:
    """In front of RecBole's Trainer; does nothing unless ``cold_item_spread`` is set.

    While an epoch trains, cold items have the embeddings that training gives them, which are those of items that never
    come next; at any other time the predicted ones: so validation, checkpoints and test are of these. A checkpoint
    carries the others too, to go on from.
    """

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.cold_item_spread = config["cold_item_spread"]
        self._cold: Tensor | None = None  # ids of the cold items that have features, once an epoch was trained
        self._map: FeatureMap | None = None
        self._trained_rows: dict[str, Tensor] = {}  # of these, set while the model holds predicted ones
        if self.cold_item_spread is not None:
            known = getattr(model, "other_parameter_name", [])
            model.other_parameter_name = [*dict.fromkeys([*known, "cold_rows"])]
            model.cold_rows = None

    def _train_epoch(self, train_data, *args, **kwargs):
        if self.cold_item_spread is None:
            return super()._train_epoch(train_data, *args, **kwargs)
        if self._cold is None:
            self._learn_from(train_data._dataset)
        self._set_rows(self._trained_rows)
        losses = super()._train_epoch(train_data, *args, **kwargs)
        if len(self._cold):
            self._trained_rows = {name: table[self._cold].clone() for name, table in self._tables().items()}
            self._set_rows({name: self._predicted(table) for name, table in self._tables().items()})
        return losses

    def _learn_from(self, dataset) -> None:
        seen = items_of_training(dataset)
        features = model_features(self.model, len(seen))
        covered = np.logical_or.reduce([aligned.covered for aligned in features.values()])
        cold = np.flatnonzero(~seen & covered)
        getLogger().info(
            f"cold items: {(~seen[1:]).sum()} of {len(seen) - 1} are in no training interaction, {len(cold)} of them "
            "have features, from which their embeddings are predicted"
        )
        self._cold = torch.from_numpy(cold).to(self.device)
        if len(cold):
            self._map = FeatureMap(features, known=np.flatnonzero(seen), asked=cold)

    def _predicted(self, table: Tensor) -> Tensor:
        return torch.from_numpy(self._map.predict(table.cpu().numpy(), self.cold_item_spread)).to(table)

    def _tables(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if name in TABLES}

    def _set_rows(self, rows: dict[str, Tensor]) -> None:
        tables = self._tables()
        for name, some in rows.items():
            tables[name][self._cold] = some

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        if self.cold_item_spread is not None:
            self.model.cold_rows = self._trained_rows
        super()._save_checkpoint(epoch, verbose=verbose, **kwargs)

    def resume_checkpoint(self, resume_file) -> None:
        super().resume_checkpoint(resume_file)
        rows = getattr(self.model, "cold_rows", None) or {}
        self._trained_rows = {name: some.to(self.device) for name, some in rows.items()}


def items_of_training(dataset) -> np.ndarray:
    """bool [N]: items that the training part of a split has, as a target or only in a history."""
    rows = dataset.inter_feat
    seen = np.zeros(dataset.item_num, dtype=bool)
    seen[rows[dataset.iid_field].numpy()] = True
    lists = dataset.iid_field + dataset.config["LIST_SUFFIX"]
    if PLACE in rows:  # the histories are not in the rows: a user's last one holds all of them
        seen[dataset.base_feat[dataset.iid_field].numpy()[_in_histories(dataset)]] = True
    elif lists in rows:
        seen[rows[lists].numpy().ravel()] = True
    seen[0] = False
    return seen


def _in_histories(dataset) -> np.ndarray:
    """bool [I]: interactions of ``base_feat`` before the last one of the same user that is trained."""
    place = dataset.inter_feat[PLACE].numpy()
    first = dataset.first_places().numpy()
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, first[place], place)
    return np.arange(len(first)) < last[first]
