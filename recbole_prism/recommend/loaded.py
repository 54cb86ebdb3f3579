"""What a checkpoint and a bundle have in common once loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import to_unit
from recbole_prism.recommend.catalogue import Catalogue, Histories


@dataclass
class Scaling:
    """How one modality's raw features became what the model sees: (x - mean) / spread, or x / |x| / spread."""

    kind: str
    mean: np.ndarray
    spread: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Raw features [n, d] -> scaled float32 [n, d]."""
        if self.kind == "unit":
            return to_unit(features, self.spread).astype(np.float32)
        return ((features - self.mean) / self.spread).astype(np.float32)


@dataclass
class Loaded:
    """A trained model in evaluation mode with the names of its items and, where known, its users' histories."""

    model: torch.nn.Module
    name: str
    settings: dict
    catalogue: Catalogue
    histories: Histories | None = None
    scalings: Callable[[], dict[str, Scaling]] = dict  # read when new items ask for them
    source: str = ""
    n_users: int = 1  # padding included; what the model was built with
    without_users: str = "no users are known"  # why, where histories is None

    def users(self) -> Histories:
        """Raises PRISMError where no histories were loaded."""
        if self.histories is None:
            raise PRISMError(f"{self.source}: {self.without_users}")
        return self.histories
