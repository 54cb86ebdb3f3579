"""RecBole's augmented rows without their lists: which prefix a row is, is known; what is in it, is looked up.

RecBole's ``SequentialDataset`` turns n interactions into n - 1 rows, each with a padded copy of its history per
field. Here the same rows, in the same order, hold only the place of their target; splitting, counting and sampling
are RecBole's.
"""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_prism.errors import PRISMError
from recbole_prism.training.loading import FastLoading
from recbole_prism.training.packing import Sequences, Windows

PLACE = "place_in_base"  # column of inter_feat: where the row's target stands in ``base_feat``


class PrefixDataset(FastLoading, SequentialDataset):
    """RecBole's rows, their lists made when asked for: ``dataset[index]`` equals a RecBole dataset's.

    ``base_feat`` holds every interaction once, in order of user and time, and is shared by the parts of a split. The
    parts that are evaluated hold their lists in ``inter_feat``, as in RecBole; the part that is trained never does.
    """

    def data_augmentation(self) -> None:
        """The rows of RecBole's ``data_augmentation``, without its loops and lists."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        self.base_feat = self.inter_feat
        users = self.base_feat[self.uid_field]
        same_user = users[1:] == users[:-1]
        place = same_user.nonzero().flatten() + 1
        rows = {name: values[place] for name, values in self.base_feat.interaction.items()}
        self.inter_feat = Interaction(rows | {self.item_list_length_field: self._list_lengths()[place], PLACE: place})

    def _list_lengths(self) -> torch.Tensor:
        """Items before each interaction of the same user, at most MAX_ITEM_LIST_LENGTH: [I]."""
        return (torch.arange(len(self.base_feat)) - self.first_places()).clamp(max=self.max_item_list_len)

    def first_places(self) -> torch.Tensor:
        """Place of the first interaction of each interaction's user: [I]."""
        users = self.base_feat[self.uid_field]
        places = torch.arange(len(users))
        begins = torch.ones(len(users), dtype=torch.bool)
        begins[1:] = users[1:] != users[:-1]
        return torch.where(begins, places, 0).cummax(0).values if len(users) else places

    def build(self) -> list:
        """RecBole's splits; those after the first, which are evaluated, get their lists."""
        parts = super().build()
        if hasattr(self, "base_feat") and not len(parts[0]):
            raise PRISMError(f"{self.dataset_name}: no user has enough interactions for one to be trained on")
        for part in parts[1:] if hasattr(self, "base_feat") else ():
            part.inter_feat = part.with_lists(part.inter_feat)
        return parts

    def __getitem__(self, index, join: bool = True) -> Interaction:
        """Rows with their lists, for whoever trains or evaluates row by row."""
        if isinstance(index, (np.ndarray, list)):
            index = torch.as_tensor(index)  # Interaction would turn it into a list
            index = index if index.dtype == torch.bool else index.long()
        rows = Interaction({name: values[index] for name, values in self.inter_feat.interaction.items()})
        if PLACE in rows and self.item_id_list not in rows:
            rows = self.with_lists(rows)
        return self.join(rows) if join else rows

    @property
    def item_id_list(self) -> str:
        return self.iid_field + self.config["LIST_SUFFIX"]

    def with_lists(self, rows: Interaction) -> Interaction:
        """Rows with the ``*_list`` fields that RecBole's augmentation gives them."""
        place, length = rows[PLACE], rows[self.item_list_length_field]
        steps = torch.arange(self.max_item_list_len)
        inside = steps < length[..., None]
        source = ((place - length)[..., None] + steps)[inside]
        lists = {}
        for field, values in self.base_feat.interaction.items():
            if field != self.uid_field:
                padded = values.new_zeros((*inside.shape, *values.shape[1:]))
                padded[inside] = values[source]
                lists[getattr(self, f"{field}_list_field")] = padded
        rows = Interaction(dict(rows.interaction))
        rows.update(Interaction(lists))
        return rows

    def inter_matrix(self, form: str = "coo", value_field: str | None = None):
        """RecBole's; it wants the lists of the rows of length 1, of which it reads the first item."""
        if PLACE not in self.inter_feat:
            return super().inter_matrix(form, value_field)
        rows = self.inter_feat[self.item_list_length_field] == 1
        first = self.base_feat[self.inter_feat[PLACE][rows] - 1]
        fields = [name for name in self.base_feat if name != self.uid_field]
        merged = {name: torch.cat([self.inter_feat[name], first[name]]) for name in fields}
        merged[self.uid_field] = torch.cat([self.inter_feat[self.uid_field], first[self.uid_field]])
        return self._create_sparse_matrix(Interaction(merged), self.uid_field, self.iid_field, form, value_field)

    def sequences(self) -> Sequences:
        """What packed training needs of this part of the split."""
        require_prefixes(self)
        users = self.base_feat[self.uid_field].numpy()
        trained = np.zeros(len(users), dtype=bool)
        trained[self.inter_feat[PLACE].numpy()] = True
        place = np.flatnonzero(trained)
        last = place[np.append(users[place[1:]] != users[place[:-1]], True)] if len(place) else place
        first = self.first_places().numpy()[last]
        return Sequences(self.base_feat[self.iid_field].numpy(), users, trained, first, last - first)

    def row_windows(self, rows: Interaction) -> Windows:
        """The histories of rows, as windows over the items of ``base_feat``."""
        place, length = rows[PLACE].numpy(), rows[self.item_list_length_field].numpy()
        return Windows(place - length, length, length - 1)


def require_prefixes(dataset) -> None:
    """Raise PRISMError for a dataset whose rows do not say which prefix they are."""
    if PLACE not in dataset.inter_feat or not hasattr(dataset, "base_feat"):
        raise PRISMError(
            f"training_mode needs interactions, and this dataset ({type(dataset).__name__}) holds rows. "
            "It was saved by a run of RecBole's own; remove its file or leave training_mode out"
        )
