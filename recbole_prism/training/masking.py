"""BERT4Rec's rows and random masks, drawn for whole batches.

Shapes: B rows, L length, S masked positions in all; I rows of a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import MaskItemSequence
from torch import Tensor

from recbole_prism.training.batches import equal_parts
from recbole_prism.training.dataset import PLACE, require_prefixes


class MaskItemSequenceFast(MaskItemSequence):
    """RecBole's ``mask_itemseq`` on whole batches: the same distribution without its loops over rows and items.

    It stands in for the transform of a train loader; the config, and so every checkpoint, keeps RecBole's name.
    ``next_item``: in a batch for fine-tuning the masked item is the one after the row's history, as in evaluation, and
    not the last of the history, so that a user's last training item is learned too.
    """

    next_item = False

    def __call__(self, dataset, interaction):
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        n_items = dataset.num(self.ITEM_ID)
        if torch.rand(()).item() < self.ft_ratio:  # a batch for fine-tuning: the last item of each row
            if self.next_item:
                item_seq, lengths = append(item_seq, lengths, interaction[self.ITEM_ID])
            masked = torch.arange(item_seq.shape[1]) == lengths[:, None] - 1
        else:
            masked = (torch.rand(item_seq.shape) < self.mask_ratio) & (item_seq > 0)
        width = max(self.mask_item_length, 1)
        from_right = masked.flip(1).cumsum(1).flip(1)  # a row's last `width` masks are predicted, aligned to the right
        rows, columns = (masked & (from_right <= width)).nonzero(as_tuple=True)
        place = (rows, width - from_right[rows, columns])
        index, positive, negative = (item_seq.new_zeros(len(item_seq), width) for _ in range(3))
        index[place] = columns
        positive[place] = item_seq[rows, columns]
        negative[place] = draw_negatives(item_seq, rows, n_items)
        fields = {
            self.MASK_ITEM_SEQ: item_seq.masked_fill(masked, n_items),
            self.POS_ITEMS: positive,
            self.NEG_ITEMS: negative,
            self.MASK_INDEX: index,
        }
        interaction.update(Interaction(fields))
        return interaction


def append(item_seq: Tensor, lengths: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """An item [B] after the last one of each row; the first leaves a full row: [B, L], [B] -> the same."""
    width = item_seq.shape[1]
    longer = torch.cat([item_seq, item_seq.new_zeros(len(items), 1)], 1).scatter(1, lengths[:, None], items[:, None])
    return torch.where((lengths == width)[:, None], longer[:, 1:], longer[:, :-1]), (lengths + 1).clamp(max=width)


def draw_negatives(item_seq: Tensor, rows: Tensor, n_items: int, tries: int = 100) -> Tensor:
    """One item for each entry of rows [S], uniformly among those that are not in the row [B, L] (as long as any is)."""
    negative = torch.randint(1, n_items, rows.shape)
    unchecked = torch.arange(len(rows))
    for _ in range(tries):
        unchecked = unchecked[(item_seq[rows[unchecked]] == negative[unchecked, None]).any(1)]
        if not len(unchecked):
            break
        negative[unchecked] = torch.randint(1, n_items, unchecked.shape)
    return negative


class FewerRows:
    """Batches of row numbers for ``training_mode: packed``: about as many items as there are targets are masked.

    RecBole makes a row of every prefix and masks ``mask_ratio`` of each, so it predicts a long user's items many times
    an epoch. Here a user with n targets has n / (mask_ratio * mean length) rows, at most n: one drawn from each of as
    many equal runs of prefixes, so that every prefix comes equally often. A batch masks about ``batch_size`` items. One
    for fine-tuning (a share ``ft_ratio`` of the batches) has as many rows, and masks one item of each.
    What is drawn depends on seed and epoch alone.
    """

    def __init__(self, dataset, *, batch_size: int, mask_ratio: float, seed: int, shuffle: bool = True) -> None:
        require_prefixes(dataset)
        users, place = dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[PLACE].numpy()
        self.order = np.lexsort((place, users))
        self.masked = dataset.inter_feat[dataset.item_list_length_field].numpy() * mask_ratio  # of each row
        _, user, self.sizes = np.unique(users, return_inverse=True, return_counts=True)
        per_row = np.bincount(user, self.masked) / self.sizes
        self.counts = np.ceil(self.sizes / np.maximum(per_row, 1)).astype(np.int64)
        self.batch_size, self.seed, self.shuffle, self.epoch = batch_size, seed, shuffle, 0

    def draw(self) -> np.ndarray:
        """Numbers of this epoch's rows."""
        generator = np.random.default_rng([self.seed, self.epoch])
        begins = np.repeat(self.counts.cumsum() - self.counts, self.counts)
        runs = np.arange(self.counts.sum()) - begins + generator.random(self.counts.sum())
        inside = (runs * np.repeat(self.sizes / self.counts, self.counts)).astype(np.int64)
        chosen = self.order[np.repeat(self.sizes.cumsum() - self.sizes, self.counts) + inside]
        return generator.permutation(chosen) if self.shuffle else chosen

    def batches(self) -> list[list[int]]:
        rows = self.draw()
        return [part.tolist() for part in np.split(rows, equal_parts(self.masked[rows], self.batch_size)[1:-1])]

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches()


def use_fast_masking(loader, config) -> None:
    """Put ``MaskItemSequenceFast`` in the place of RecBole's transform of a loader, if it has that one."""
    if type(getattr(loader, "transform", None)) is MaskItemSequence:
        loader.transform = MaskItemSequenceFast(config)


def use_fewer_rows(loader, config) -> FewerRows:
    """Let a train loader draw its rows (torch forbids to set its batch sampler, RecBole leaves no other way)."""
    rows = FewerRows(
        loader._dataset,
        batch_size=config["train_batch_size"],
        mask_ratio=config["mask_ratio"],
        seed=config["seed"],
        shuffle=config["shuffle"],
    )
    object.__setattr__(loader, "batch_sampler", rows)
    loader.transform.next_item = True
    return rows
