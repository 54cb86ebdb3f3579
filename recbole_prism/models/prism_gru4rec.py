"""PRISM on RecBole's GRU4Rec."""

from recbole.model.sequential_recommender.gru4rec import GRU4Rec

from recbole_prism.mixin import PRISMMixin


class PRISM_GRU4Rec(PRISMMixin, GRU4Rec):
    """GRU4Rec whose item inputs carry fused modalities; see :class:`recbole_prism.mixin.PRISMMixin`."""
