"""PRISM on RecBole's BERT4Rec."""

from torch import Tensor

from recbole_prism.mixin import PRISMMixin
from recbole_prism.prediction import hooked
from recbole_prism.training.masked import MaskedBERT4Rec


class PRISM_BERT4Rec(PRISMMixin, MaskedBERT4Rec):
    """BERT4Rec whose item inputs carry fused modalities; see :class:`recbole_prism.mixin.PRISMMixin`."""

    def item_inputs(self, item_seq: Tensor) -> Tensor:
        """Enriched inputs of masked rows: [B, L] -> [B, L, D]."""
        with hooked(self.item_embedding, self._enrich_rows):
            return super().item_inputs(item_seq)

    def encode_masked(self, item_seq: Tensor, rows: Tensor, positions: Tensor, *, each_last: bool = False) -> Tensor:
        """States of masked positions; losses on predictions need the pass over whole rows that ``forward`` makes."""
        if self.training and getattr(self.fusion, "compares_predictions", False):
            return self.forward(item_seq)[rows, positions]
        return super().encode_masked(item_seq, rows, positions, each_last=each_last)
