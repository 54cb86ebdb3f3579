"""Build a RecBole model without its dataset: stand-ins for Config and Dataset hold what its constructor asks.

Used by bundles, and for catalogues that have grown since training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import Aligned


class StandInConfig:
    """Settings read as RecBole's Config is: absent keys are None."""

    def __init__(self, settings: Mapping) -> None:
        self.final_config_dict = dict(settings)
        self.external_config_dict: dict = {}

    def __getitem__(self, key: str):
        return self.final_config_dict.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self.final_config_dict


class StandInDataset:
    """What models ask of a dataset: numbers of users and items, item tokens, and for PRISM the aligned features."""

    def __init__(
        self, config: StandInConfig, item_tokens: list[str], n_users: int, features: Mapping[str, Aligned]
    ) -> None:
        self.config = config
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.field2id_token = {self.iid_field: np.array(item_tokens)}
        self.field2seqlen = {self.iid_field + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}
        self.item_num, self.user_num = len(item_tokens), n_users
        self.inter_feat = {self.iid_field: torch.empty(0, dtype=torch.long)}
        self.aligned_features = features

    def num(self, field: str) -> int:
        """Distinct values of a field, padding included; only users and items have some."""
        return {self.iid_field: self.item_num, self.uid_field: self.user_num}[field]

    def id2token(self, field: str, ids) -> np.ndarray:
        """Tokens of internal ids."""
        return self.field2id_token[field][ids]


def build_model(
    name: str,
    settings: Mapping,
    item_tokens: list[str],
    state: Mapping[str, torch.Tensor],
    *,
    n_users: int,
    features: Mapping[str, Aligned],
    device: str = "cpu",
) -> torch.nn.Module:
    """The model of that name in evaluation mode, with ``state``; ``features`` are scaled already.

    Raises PRISMError if its constructor needs more of a dataset than the stand-in has, or if the weights do not fit.
    """
    from recbole.utils import get_model

    settings = {**settings, "device": torch.device(device), "feature_scaling": "none"}
    config = StandInConfig(settings)
    generator = torch.random.get_rng_state()
    try:
        model = get_model(name)(config, StandInDataset(config, item_tokens, n_users, features))
    except PRISMError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PRISMError(
            f"{name} needs more of its dataset than item tokens and features ({type(error).__name__}: {error}); "
            "recommend from its checkpoint instead"
        ) from error
    finally:
        torch.random.set_rng_state(generator)  # building draws initial weights that nobody will see
    try:
        model.load_state_dict(dict(state))
    except PRISMError:
        raise
    except RuntimeError as error:
        raise PRISMError(f"the weights do not fit {name} ({' '.join(str(error).split())[:200]})") from error
    return model.to(device).eval()


def model_features(model: torch.nn.Module, n_items: int) -> dict[str, Aligned]:
    """The scaled features that a PRISM model holds, [n_items, d] per modality; nothing for other models."""
    if not hasattr(model, "modalities"):
        return {}
    modalities = model.modalities
    return {
        name: Aligned(
            getattr(modalities, f"values_{name}")[:n_items].cpu().numpy(),
            getattr(modalities, f"covered_{name}")[:n_items].cpu().numpy(),
        )
        for name in modalities.names
    }
