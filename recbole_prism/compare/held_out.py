"""Cold items: a share of the catalogue whose interactions are taken out, except where they are a test question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from recbole_prism.errors import PRISMError

LEFT = 3  # interactions a user keeps, or leave-one-out would train on the cold item
SEED = 0  # the same items for every model and seed


@contextmanager
def held_out(share: float | None) -> Iterator[None]:
    """While in force, ``share`` of the items never reach training or validation (None: nothing changes)."""
    import recbole.quick_start.quick_start as quick_start

    prepare = quick_start.data_preparation

    def prepare_without(config, dataset):
        if share:
            if config["benchmark_filename"] or dataset.time_field not in dataset.inter_feat:
                raise PRISMError(
                    f"cold_items: {dataset.dataset_name} has no interactions with times (TIME_FIELD, no "
                    "benchmark_filename), of which a user's last could be kept"
                )
            dataset.inter_feat = without_items(
                dataset.inter_feat,
                cold_items(dataset.field2id_token[dataset.iid_field], share),
                dataset.uid_field,
                dataset.iid_field,
                dataset.time_field,
            )
        return prepare(config, dataset)

    quick_start.data_preparation = prepare_without
    try:
        yield
    finally:
        quick_start.data_preparation = prepare


def cold_items(tokens, share: float) -> np.ndarray:
    """bool [N]: drawn by token, so that it does not matter how RecBole numbers them; 0 is padding."""
    order = 1 + np.argsort(np.asarray(tokens[1:], dtype=str))
    drawn = np.random.default_rng(SEED).permutation(len(order))[: round(share * len(order))]
    cold = np.zeros(len(tokens), dtype=bool)
    cold[order[drawn]] = True
    return cold


def without_items(frame: pd.DataFrame, cold: np.ndarray, user: str, item: str, time: str) -> pd.DataFrame:
    """Interactions without those of cold items; a user's last one stays, where enough others are left to be its past.

    With RecBole's leave-one-out a cold item then is a test target and nothing else.
    """
    ordered = frame.sort_values([user, time], kind="stable")
    is_cold = cold[ordered[item].to_numpy()]
    users = ordered[user].to_numpy()
    is_last = np.append(users[1:] != users[:-1], True)
    warm = np.bincount(users, weights=~is_cold)[users]
    return ordered[~is_cold | (is_last & (warm >= LEFT))].reset_index(drop=True)
