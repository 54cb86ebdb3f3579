"""What a checkpoint and a bundle have in common once loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import Scaling
from recbole_prism.recommend.catalogue import Catalogue, Histories


@dataclass
class Loaded:
    """A trained model in evaluation mode with the names of its items and, where known, its users' histories."""

    model: torch.nn.Module
    name: str
    settings: dict
    catalogue: Catalogue
    histories: Histories | None = None
    scalings: dict[str, Scaling] = field(default_factory=dict)  # how features were scaled, per modality
    source: str = ""
    n_users: int = 1  # padding included; what the model was built with
    without_users: str = "no users are known"  # why, where histories is None

    def users(self) -> Histories:
        """Raises PRISMError where no histories were loaded."""
        if self.histories is None:
            raise PRISMError(f"{self.source}: {self.without_users}")
        return self.histories
