"""Bundles: a trained model as a folder or .zip of JSON and safetensors, read without its dataset and without pickle.

    manifest.json         format, version, and size and SHA-256 of every other file
    config.json           model, its settings, how features were scaled, which are fields of the .item file
    items.json            item tokens in the order of the model's ids, titles
    weights.safetensors
    features.safetensors  per modality: scaled values [N, d], covered [N], mean [d] and spread [d] of the scaling
    users.json, histories.safetensors   only if asked for: users and what they did

The manifest tells damage, mixtures and other people's files; it is no signature. Reading a bundle runs no code of it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from recbole_prism.errors import PRISMError
from recbole_prism.features import Aligned, Scaling
from recbole_prism.item_fields import ItemField
from recbole_prism.recommend.catalogue import Catalogue, Histories
from recbole_prism.recommend.loaded import Loaded
from recbole_prism.recommend.standin import build_model, model_features
from recbole_prism.recommend.writing import replace_folder
from recbole_prism.version import __version__

FORMAT, VERSION = "recbole-prism bundle", 1
MANIFEST = "manifest.json"
REQUIRED = ("config.json", "items.json", "weights.safetensors", "features.safetensors")
USERS = ("users.json", "histories.safetensors")
# Of this machine and this training run; no model reads them.
PRIVATE = {
    "data_path", "checkpoint_dir", "config_files", "dataset_save_path", "dataloaders_save_path", "wandb_project",
    "gpu_id", "ip", "port", "local_rank", "load_col", "url", "tensorboard_dir", "resume",
    "modalities", "pre_model_path",
}  # fmt: skip


def is_bundle(path: Path) -> bool:
    """Whether a path is to be read as a bundle: any folder, and any zip that is no checkpoint (they are zips too)."""
    if path.is_dir() or path.suffix == ".zip":
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()


def export_bundle(loaded: Loaded, path: str | Path, *, with_users: bool = False, overwrite: bool = False) -> Path:
    """Write a bundle and read it back; a path that ends in .zip becomes a file, any other a folder.

    Raises PRISMError for models that cannot be built without their dataset, and if the path exists (see ``overwrite``);
    nothing is left behind then.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise PRISMError(f"{path}: exists already; choose another name or overwrite it (overwrite=True, --overwrite)")
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise PRISMError(f"{path}: exists and is no bundle; choose another name")
    if not with_users and answers_users_only(loaded):
        raise PRISMError(f"{loaded.name} answers for users alone; export it with users (with_users=True, --with-users)")
    files = _contents(loaded, with_users)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"recbole-prism {__version__}",
        "files": {
            name: {"sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)}
            for name, payload in files.items()
        },
    }
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    rebuilt = _build(files.__getitem__, loaded.source, with_users, "cpu")
    _check_same(loaded, rebuilt)
    replace_folder(path, files)
    return path


def load_bundle(path: str | Path, *, device: str = "cpu") -> Loaded:
    """Read a bundle. Raises PRISMError if it is damaged, of another kind, or newer than this version."""
    path = Path(path)
    reader, close = _open(path)
    try:
        manifest = _manifest(path, reader)
        named = manifest["files"]

        def checked(name: str) -> bytes:
            payload = reader(name)
            if hashlib.sha256(payload).hexdigest() != named[name].get("sha256"):
                raise PRISMError(f"{path}: {name} is not what the manifest says; damaged or altered, export it again")
            return payload

        return _build(checked, str(path), all(name in named for name in USERS), device)
    except PRISMError:
        raise
    except (
        OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, ImportError, RuntimeError, zlib.error,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise PRISMError(f"{path}: cannot be read as a bundle ({type(error).__name__}: {error})") from error
    finally:
        close()


def _open(path: Path) -> tuple[Callable[[str], bytes], Callable[[], None]]:
    """A reader of files by name, and what closes it."""
    if path.is_dir():
        return lambda name: (path / name).read_bytes(), lambda: None
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise PRISMError(f"{path}: cannot be read as a bundle ({error}); is the file complete?") from error
    return archive.read, archive.close


def _manifest(path: Path, reader: Callable[[str], bytes]) -> dict:
    try:
        manifest = json.loads(reader(MANIFEST))
    except (OSError, KeyError, ValueError) as error:
        raise PRISMError(f"{path}: has no readable {MANIFEST}, so it is no bundle of `recbole-prism export`") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PRISMError(f"{path}: {MANIFEST} is of something else than a bundle of `recbole-prism export`")
    if manifest.get("version") != VERSION:
        raise PRISMError(
            f"{path}: is a bundle of version {manifest.get('version')}, and recbole-prism {__version__} reads version "
            f"{VERSION}; export it again or use another version of recbole-prism"
        )
    missing = [name for name in REQUIRED if name not in manifest.get("files", {})]
    if missing:
        raise PRISMError(f"{path}: the manifest names no {missing[0]}; export it again")
    return manifest


def _contents(loaded: Loaded, with_users: bool) -> dict[str, bytes]:
    from safetensors.torch import save

    model, tokens = loaded.model, loaded.catalogue.tokens
    other = model.other_parameter() or {}
    other.pop("features", None)  # a bundle has them with it
    if not _is_json(other):
        raise PRISMError(
            f"{loaded.name} needs more of its dataset than item tokens and features (its checkpoint holds "
            f"{', '.join(other)}); recommend from its checkpoint instead"
        )
    settings = {key: value for key, value in loaded.settings.items() if key not in PRIVATE and _is_json(value)}
    tensors, scalings = {}, loaded.scalings
    for name, aligned in model_features(model, len(tokens)).items():
        tensors[f"{name}.values"] = torch.from_numpy(aligned.features)
        tensors[f"{name}.covered"] = torch.from_numpy(aligned.covered)
        tensors[f"{name}.mean"] = torch.as_tensor(scalings[name].mean)
        tensors[f"{name}.spread"] = torch.as_tensor(scalings[name].spread)
    if tensors:
        settings["modalities"] = list(model.modalities.names)  # the files they came from stay behind
    known = set(tokens)
    config = {
        "model": loaded.name,
        "settings": settings,
        "n_users": loaded.n_users,
        "other_parameter": other,
        "scaling": {name: scaling.kind for name, scaling in scalings.items()},
        "fields": {name: asdict(field) for name, field in loaded.fields.items()},
    }
    items = {"tokens": tokens, "titles": {t: title for t, title in loaded.catalogue.titles.items() if t in known}}
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    files = {
        "config.json": json.dumps(config, indent=1).encode(),
        "items.json": json.dumps(items, ensure_ascii=False).encode(),
        "weights.safetensors": save(state),
        "features.safetensors": save({key: value.contiguous().clone() for key, value in tensors.items()}),
    }
    if with_users:
        histories = loaded.users()
        arrays = {name: getattr(histories, name) for name in ("offsets", "items", "valid", "test")}
        files["users.json"] = json.dumps(histories.tokens, ensure_ascii=False).encode()
        files["histories.safetensors"] = save({k: torch.as_tensor(v).long().clone() for k, v in arrays.items()})
    return files


def _build(read: Callable[[str], bytes], source: str, with_users: bool, device: str) -> Loaded:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        config, items = json.loads(read("config.json")), json.loads(read("items.json"))
        state, tensors = load(read("weights.safetensors")), load(read("features.safetensors"))
        histories = None
        if with_users:
            arrays = {name: array.numpy() for name, array in load(read("histories.safetensors")).items()}
            histories = Histories(json.loads(read("users.json")), **arrays)
    except SafetensorError as error:
        raise PRISMError(f"{source}: cannot be read as a bundle ({error})") from error
    scaling = config["scaling"]
    features = {
        name: Aligned(tensors[f"{name}.values"].numpy(), tensors[f"{name}.covered"].numpy()) for name in scaling
    }
    try:
        model = build_model(
            config["model"],
            config["settings"],
            items["tokens"],
            state,
            n_users=config["n_users"],
            features=features,
            device=device,
        )
        model.load_other_parameter(config["other_parameter"])
    except PRISMError as error:
        raise PRISMError(f"{source}: {error}") from error
    scalings = {
        name: Scaling(kind, tensors[f"{name}.mean"].numpy(), tensors[f"{name}.spread"].numpy())
        for name, kind in scaling.items()
    }
    return Loaded(
        model=model,
        name=config["model"],
        settings=config["settings"],
        catalogue=Catalogue(items["tokens"], items["titles"]),
        histories=histories,
        scalings=scalings,
        fields={name: ItemField(**told) for name, told in config.get("fields", {}).items()},
        source=source,
        n_users=config["n_users"],
        without_users="this bundle knows no users; ask for a sequence (for_sequence, --sequence), or export it with "
        "users (with_users=True, --with-users)",
    )


def answers_users_only(loaded: Loaded) -> bool:
    """Whether a bare history is no question that the model could answer."""
    from recbole_prism.recommend.scoring import Scorer

    if loaded.histories is None:
        return False
    try:
        Scorer(loaded).scores([torch.arange(1, min(len(loaded.catalogue), 4) + 1).numpy()])
    except PRISMError as error:  # which names the field that is missing
        return repr(loaded.settings["USER_ID_FIELD"]) in str(error)
    return False


def _check_same(loaded: Loaded, rebuilt: Loaded) -> None:
    """Raise PRISMError unless the model that was read back scores as the original does."""
    from recbole_prism.recommend.scoring import Scorer

    some = torch.arange(1, min(len(loaded.catalogue), 4) + 1).numpy()
    users = [1] if loaded.histories else None
    here, there = (Scorer(each).scores([some], users).cpu() for each in (loaded, rebuilt))
    if not torch.allclose(here, there, rtol=1e-4, atol=1e-5):
        raise PRISMError(
            f"{loaded.name} computes something else without its dataset, so it cannot be exported; "
            "recommend from its checkpoint"
        )


def _is_json(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(v) for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
