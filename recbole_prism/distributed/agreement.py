"""Processes that differ in versions, settings, data or features would train something else each: none may start."""

from __future__ import annotations

import importlib.metadata
import json
import platform

from recbole_prism.distributed import processes
from recbole_prism.errors import PRISMError
from recbole_prism.features import digest_of_array, fingerprint_of
from recbole_prism.version import __version__

PACKAGES = ("recbole", "torch", "numpy", "pandas")
LOCAL = {  # keys that may differ between machines
    *("local_rank", "offset", "nproc", "ip", "port", "gpu_id", "worker", "data_path", "checkpoint_dir", "state"),
    *("show_progress", "verbose", "config_files", "resume", "dataset_save_path", "dataloaders_save_path", "log_wandb"),
    *("save_dataset", "save_dataloaders", "nproc_per_node", "group_offset"),
}


class Disagreement(PRISMError):
    """Processes differ; all of them raise it, with the same words."""


def check_settings(config) -> None:
    """Versions, settings and kind of device. Raises PRISMError, the same in every process."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"recbole-prism": __version__, "python": platform.python_version()}
    values = {key: value for key, value in config.final_config_dict.items() if key not in LOCAL}
    values["device"] = values["device"].type
    check("versions", versions)
    check("settings", {key: repr(value) for key, value in values.items()})


def check_data(loaders) -> None:
    """Users, items and interactions of RecBole's loaders; nothing in a single process."""
    if processes.GROUP is None:
        return
    dataset = loaders[0]._dataset
    facts = {
        "users": dataset.user_num,
        "items": dataset.item_num,
        "item tokens": fingerprint_of(dataset.field2id_token[dataset.iid_field])[:12],
        "user tokens": fingerprint_of(dataset.field2id_token[dataset.uid_field])[:12],
    }
    for part, loader in zip(("training", "validation", "test"), loaders, strict=True):
        rows = loader._dataset.inter_feat
        facts[f"{part} interactions"] = len(rows)
        columns = [values for values in rows.interaction.values() if values.dim() == 1]
        facts[f"{part} contents"] = [digest_of_array(values.numpy()) for values in columns]
    check("data", {key: str(value) for key, value in facts.items()})


def check_features(model) -> None:
    """Features of the items, which every machine reads from files of its own."""
    modalities = getattr(model, "modalities", None)
    if processes.GROUP is None or modalities is None:
        return
    buffers = {name: buffer for name, buffer in modalities.named_buffers()}
    check("features", {name: f"{list(b.shape)} {digest_of_array(b.cpu().numpy())}" for name, b in buffers.items()})


def check(kind: str, facts: dict[str, str]) -> None:
    """Raise Disagreement naming the first fact in which a process differs from the first, the same in every process."""
    place, store = processes.GROUP.place, processes.GROUP.store
    mine = {"name": str(place), "facts": facts}
    store.set(f"{kind}{place.rank}", json.dumps(mine))
    everyone = [json.loads(store.get(f"{kind}{rank}")) for rank in range(place.world_size)]
    first = everyone[0]
    for other in everyone[1:]:
        for key in first["facts"] | other["facts"]:
            a, b = (side["facts"].get(key, "nothing") for side in (first, other))
            if a != b:
                raise Disagreement(
                    f"{kind} differ: {key} is {_short(a)} for {first['name']} and {_short(b)} for {other['name']}; "
                    "all processes need the same"
                )


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:60]}..."
