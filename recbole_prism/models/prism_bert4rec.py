"""PRISM on RecBole's BERT4Rec."""

from recbole.model.sequential_recommender.bert4rec import BERT4Rec

from recbole_prism.mixin import PRISMMixin


class PRISM_BERT4Rec(PRISMMixin, BERT4Rec):
    """BERT4Rec whose item inputs carry fused modalities; see :class:`recbole_prism.mixin.PRISMMixin`."""
