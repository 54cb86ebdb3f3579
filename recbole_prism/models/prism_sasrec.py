"""PRISM on RecBole's SASRec."""

from recbole.model.sequential_recommender.sasrec import SASRec

from recbole_prism.mixin import PRISMMixin


class PRISM_SASRec(PRISMMixin, SASRec):
    """SASRec whose item inputs carry fused modalities; see :class:`recbole_prism.mixin.PRISMMixin`."""
