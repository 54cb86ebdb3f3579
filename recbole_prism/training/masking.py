"""BERT4Rec's random masks, drawn for whole batches. Shapes: B rows, L length, S masked positions in all."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import MaskItemSequence
from torch import Tensor


class MaskItemSequenceFast(MaskItemSequence):
    """RecBole's ``mask_itemseq`` on whole batches: the same distribution without its loops over rows and items.

    It stands in for the transform of a train loader; the config, and so every checkpoint, keeps RecBole's name.
    """

    def __call__(self, dataset, interaction):
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        n_items = dataset.num(self.ITEM_ID)
        if torch.rand(()).item() < self.ft_ratio:  # a batch for fine-tuning: the last item of each row
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


def use_fast_masking(loader, config) -> None:
    """Put ``MaskItemSequenceFast`` in the place of RecBole's transform of a loader, if it has that one."""
    if type(getattr(loader, "transform", None)) is MaskItemSequence:
        loader.transform = MaskItemSequenceFast(config)
