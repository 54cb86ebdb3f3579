"""What a few backbones need beyond ``PRISMMixin``. Shapes: B batch, L length."""

from __future__ import annotations

from recbole.trainer import S3RecTrainer

from recbole_prism.mixin import PRISMMixin
from recbole_prism.training.trainer import PRISMTrainer


class GraphMixin(PRISMMixin):
    """For models that look up the distinct items of each row, the nodes of a graph, in the order of their ids.

    The pools are taken over the history itself, with repetitions; every node of a row gets the same f.
    """

    def forward(self, item_seq, *args, **kwargs):
        self.history = item_seq
        try:
            return super().forward(item_seq, *args, **kwargs)
        finally:
            self.history = None


class KSRMixin(PRISMMixin):
    """RecBole's KSR keeps the pre-trained relations in double precision and cannot multiply them with its states."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.relation_Matrix = self.relation_Matrix.float()


class S3RecMixin(PRISMMixin):
    """RecBole's S3Rec loads the pre-trained weights while it is built, before PRISM's layers exist."""

    def __init__(self, config, dataset) -> None:
        self.__dict__["_pretrained"] = {}
        super().__init__(config, dataset)
        if self._pretrained:
            self.load_state_dict({**self.state_dict(), **self._pretrained})
            self._pretrained = {}

    def load_state_dict(self, state_dict, *args, **kwargs):
        if "fusion" in self._modules:
            return super().load_state_dict(state_dict, *args, **kwargs)
        ours = {name: value for name, value in state_dict.items() if name.startswith(("fusion.", "modalities."))}
        self._pretrained = ours
        backbone = {name: value for name, value in state_dict.items() if name not in ours}
        return super().load_state_dict(backbone, *args, **kwargs)

    def targets_of(self, interaction):
        """Pre-training encodes masked sequences and segments, of which the next item is not the target."""
        return None if self.train_stage == "pretrain" else super().targets_of(interaction)


class PRISM_S3RecTrainer(PRISMTrainer, S3RecTrainer):
    """RecBole's two stages of S3Rec, with the losses under their names."""


MIXINS = {"SRGNN": GraphMixin, "GCSAN": GraphMixin, "KSR": KSRMixin, "S3Rec": S3RecMixin}
