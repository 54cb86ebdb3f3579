"""What a checkpoint and a bundle have in common once loaded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import Scaling
from recbole_prism.item_fields import ItemField
from recbole_prism.recommend.catalogue import Catalogue, Histories


@dataclass
class Loaded:
    """A trained model in evaluation mode with the names of its items and, where known, its users' histories.

    Models keep notes of a forward pass, and explanations change them for a moment, so who asks one holds ``lock``:
    answers to several threads wait for each other.
    """

    model: torch.nn.Module
    name: str
    settings: dict
    catalogue: Catalogue
    histories: Histories | None = None
    scalings: dict[str, Scaling] = field(default_factory=dict)  # how features were scaled, per modality
    fields: dict[str, ItemField] = field(default_factory=dict)  # modalities that are fields of the .item file
    source: str = ""
    n_users: int = 1  # padding included; what the model was built with
    without_users: str = "no users are known"  # why, where histories is None

    def __post_init__(self) -> None:
        self.lock = threading.RLock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()

    def users(self) -> Histories:
        """Raises PRISMError where no histories were loaded."""
        if self.histories is None:
            raise PRISMError(f"{self.source}: {self.without_users}")
        return self.histories
