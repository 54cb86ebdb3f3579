"""Load a checkpoint of RecBole's trainer together with the dataset it was trained on.

RecBole's checkpoints are pickles: load only those you trust. A bundle (``recbole-prism export``) needs no such trust.
"""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import check_fingerprint, fingerprint_of
from recbole_prism.recommend.catalogue import Catalogue, Histories, read_titles
from recbole_prism.recommend.loaded import Loaded


def load_checkpoint(
    path: str | Path, *, data_path: str | None = None, title_field: str | None = None, device: str = "cpu"
) -> Loaded:
    """Model, items and histories of a checkpoint.

    ``data_path`` replaces the folder of datasets that the checkpoint remembers. Raises PRISMError for files that are no
    checkpoints, models that are not sequential, and datasets that are not there or not those of the checkpoint.
    """
    from recbole.data import create_dataset
    from recbole.utils import ModelType, get_model

    checkpoint = read_checkpoint(Path(path))
    config = checkpoint["config"]
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise PRISMError(f"{path}: {config['model']} is not a sequential model; only those recommend from a history")
    place(config, Path(path), data_path, device)
    with quiet(), torch.random.fork_rng(devices=[]):  # building draws initial weights that nobody will see
        dataset = create_dataset(config)
        interactions = read_interactions(dataset)
        parts = dataset.build()
        model = get_model(config["model"])(config, parts[0]).to(device)
    _load_weights(model, checkpoint, Path(path), fingerprint_of(dataset.field2id_token[dataset.iid_field]))
    catalogue = Catalogue([str(token) for token in dataset.field2id_token[dataset.iid_field]])
    catalogue.titles = read_titles(
        Path(config["data_path"]) / f"{config['dataset']}.item",
        dataset.iid_field,
        separator=config["field_separator"],
        encoding=config["encoding"],
        title_field=title_field,
    )
    return Loaded(
        model=model.eval(),
        name=config["model"],
        settings=dict(config.final_config_dict),
        catalogue=catalogue,
        histories=read_histories(dataset, interactions, parts),
        scalings=model.modalities.scalings if hasattr(model, "modalities") else {},
        fields=model.modalities.fields if hasattr(model, "modalities") else {},
        source=str(path),
        n_users=dataset.user_num,
    )


def read_checkpoint(path: Path) -> dict:
    """The dict of a RecBole checkpoint, its config with the device and paths of the training run."""
    if not path.is_file():
        raise PRISMError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, KeyError, ValueError) as error:
        raise PRISMError(
            f"{path}: cannot be read as a checkpoint of RecBole ({' '.join(str(error).split())})"
        ) from error
    needed = {"config", "state_dict"}
    if not isinstance(checkpoint, dict) or not needed <= checkpoint.keys() or not _is_config(checkpoint["config"]):
        raise PRISMError(f"{path}: is not a checkpoint of RecBole, which holds {sorted(needed)}")
    return checkpoint


def _is_config(found) -> bool:
    """Whether it is RecBole's Config, which says what the model is."""
    return {"model", "dataset", "MODEL_TYPE"} <= getattr(found, "final_config_dict", {}).keys()


def place(config, path: Path, data_path: str | None, device: str) -> None:
    """Point a checkpoint's config at this machine."""
    config["device"] = torch.device(device)
    config["single_spec"] = True
    names = config["benchmark_filename"]
    files = [f"{config['dataset']}.{name}.inter" for name in names] if names else [f"{config['dataset']}.inter"]
    if data_path is not None:
        own = Path(data_path) / config["dataset"]
        if config["dataset"] != "ml-100k" or (own / files[0]).is_file():  # else the copy that RecBole brings
            config["data_path"] = str(own)
        config.external_config_dict["data_path"] = str(data_path)
    folder = Path(config["data_path"])
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise PRISMError(
            f"{path}: was trained on {config['dataset']!r}, and there is no {folder / missing[0]}; "
            "say where the dataset is (data_path=, --data-path), or use an exported bundle"
        )


def _load_weights(model, checkpoint: dict, path: Path, items: str) -> None:
    try:
        check_fingerprint((checkpoint.get("other_parameter") or {}).get("item_fingerprint"), items)
        model.load_state_dict(checkpoint["state_dict"])
        model.load_other_parameter(checkpoint.get("other_parameter"))
    except PRISMError as error:
        raise PRISMError(f"{path}: {error}") from error
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise PRISMError(
            f"{path}: the weights do not fit {type(model).__name__} on this dataset ({reason}); "
            "was it trained on another dataset or with another filtering?"
        ) from error


def read_interactions(dataset):
    """Who met what and when, by user and time, read before ``dataset.build()``, which drops ``unused_col`` and makes
    rows; None for benchmark files, which hold rows."""
    fields = [dataset.uid_field, dataset.iid_field, dataset.time_field]
    if dataset.config["benchmark_filename"] or not set(fields) <= set(dataset.inter_feat.columns):
        return None
    interactions = dataset._dataframe_to_interaction(dataset.inter_feat[fields])
    interactions.sort(by=[dataset.uid_field, dataset.time_field], ascending=True)
    return interactions


def read_histories(dataset, interactions, parts) -> Histories:
    """Full sequences in RecBole's own order, and where validation and test begin.

    ``interactions`` as ``read_interactions`` gives them; where they are None a user's sequence is the longest row with
    its target.
    """
    n_users = dataset.user_num
    if interactions is None:
        return _from_rows(dataset, parts)
    users = interactions[dataset.uid_field].numpy()
    lengths = np.bincount(users, minlength=n_users)
    asked = [np.bincount(part.inter_feat[dataset.uid_field].numpy(), minlength=n_users) for part in parts[1:]]
    test = np.where(asked[1] > 0, lengths - asked[1], -1)
    valid = np.where(asked[0] > 0, lengths - asked[1] - asked[0], -1)
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Histories(_users(dataset), offsets, interactions[dataset.iid_field].numpy(), valid, test)


def _from_rows(dataset, parts) -> Histories:
    items, lengths = dataset.iid_field + dataset.config["LIST_SUFFIX"], dataset.config["ITEM_LIST_LENGTH_FIELD"]
    sequences = [np.empty(0, np.int64)] * dataset.user_num
    first = {n: np.full(dataset.user_num, -1) for n in range(3)}
    for n, part in enumerate(parts):
        rows = part.inter_feat
        for user, history, length, target in zip(
            rows[dataset.uid_field].tolist(),
            rows[items].numpy(),
            rows[lengths].tolist(),
            rows[dataset.iid_field].tolist(),
            strict=True,
        ):
            if length + 1 > len(sequences[user]):
                sequences[user] = np.append(history[:length], target)
            if first[n][user] < 0 or length < first[n][user]:
                first[n][user] = length
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    return Histories(_users(dataset), offsets, np.concatenate(sequences), first[1], first[2])


def _users(dataset) -> list[str]:
    return [str(token) for token in dataset.field2id_token[dataset.uid_field]]


@contextmanager
def own_command_line() -> Iterator[None]:
    """RecBole reads sys.argv into every Config; our options are not its keys."""
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = argv


class quiet:
    """RecBole logs every step of loading a dataset; a command that answers a question should not."""

    def __enter__(self) -> None:
        self.disabled = logging.root.manager.disable
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module=r"recbole\.")  # of pandas 3, which we exclude
        logging.disable(logging.WARNING)

    def __exit__(self, *exception) -> None:
        logging.disable(self.disabled)
        self.warnings.__exit__(*exception)
