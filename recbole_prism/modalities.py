"""Frozen features of all items, per modality, and their projections into the backbone's space.

Shapes: N items (padding included), M modalities, D hidden size, d_m dimension of modality m.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_prism import features as feature_files
from recbole_prism.errors import PRISMError, suggest
from recbole_prism.item_fields import ItemField, from_item_field
from recbole_prism.paths import DATASETS


class Modalities(nn.Module):
    """x_m(i), a_m(i) and p_m(i) = W_m x_m(i) + b_m for every item i and modality m."""

    def __init__(self, config, dataset, hidden_size: int, n_rows: int) -> None:
        """``n_rows`` >= n_items: rows of the backbone's item table; later ones (mask tokens) have no modality."""
        super().__init__()
        sources = modality_sources(config)
        self.names = list(sources)
        self.missing = config["missing"]
        self.dropout = config["modality_dropout"]
        self.n_items = dataset.item_num
        self.projection = nn.ModuleDict()
        self.missing_vector = nn.ParameterDict()
        self.coverage: dict[str, np.ndarray] = {}  # bool [N]: has features, whatever ``missing`` makes of it
        self.scalings: dict[str, feature_files.Scaling] = {}
        self.digests: dict[str, str] = {}  # of features as they are read
        self.fields: dict[str, ItemField] = {}  # of the .item file, of modalities that are one
        trained = trained_items(dataset)
        for name, source in sources.items():
            aligned = load_modality(config, dataset, name, source)
            if not hasattr(dataset, "aligned_features") and Path(source).suffix not in feature_files.READERS:
                self.fields[name] = ItemField.of(dataset, source)
            scaling, length = config["feature_scaling"], config["feature_length"] or 1.0  # older checkpoints have none
            self.scalings[name] = feature_files.fit_scaling(aligned, scaling, trained, length)
            self.digests[name] = " ".join(map(feature_files.digest_of_array, (aligned.features, aligned.covered)))
            values = torch.from_numpy(feature_files.scale_features(aligned, self.scalings[name]))
            covered = torch.from_numpy(aligned.covered)
            self.coverage[name] = aligned.covered
            _log_coverage(dataset, name, aligned)
            del aligned
            values, covered = self._fill_missing(name, source, values, covered, dataset, hidden_size)
            extra = n_rows - len(values)
            values = F.pad(values, (0, 0, 0, extra)) if extra else values
            self.register_buffer(f"values_{name}", values, persistent=False)
            self.register_buffer(f"covered_{name}", F.pad(covered, (0, extra)), persistent=False)
            self.projection[name] = nn.Linear(values.shape[1], hidden_size)
            nn.init.normal_(self.projection[name].weight, std=config["projection_init"])
            nn.init.zeros_(self.projection[name].bias)

    def _fill_missing(self, name, source, values, covered, dataset, hidden_size) -> tuple[Tensor, Tensor]:
        """Apply the policy ``missing`` to items without this modality; the padding row never has one."""
        uncovered = ~covered
        uncovered[0] = False
        if self.missing == "error" and uncovered.any():
            ids = uncovered.nonzero().flatten()
            tokens = dataset.id2token(dataset.iid_field, ids[:3].numpy()).tolist()
            raise PRISMError(
                f"{source}: {len(ids)} of {len(values) - 1} items have no {name!r} feature (first: {tokens}); "
                "set missing: zero, mean or learned to accept them"
            )
        if self.missing == "mean":
            values[uncovered] = values[covered].mean(0)
            covered = covered | uncovered
        if self.missing == "learned" and (uncovered.any() or self.dropout):
            self.missing_vector[name] = nn.Parameter(torch.zeros(hidden_size))
        return values, covered

    def forward(self, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p_m and a_m of the whole table (items None), or of ids [U]: projected [N or U, M, D], available [.., M]."""
        projected, available = [], []
        for name in self.names:
            values, covered = getattr(self, f"values_{name}"), getattr(self, f"covered_{name}")
            if items is not None:
                values, covered = values[items], covered[items]
            if self.training and self.dropout:  # these items lack this modality in this step
                lacking = torch.rand(len(covered), device=covered.device) < self.dropout
                if self.missing == "mean":
                    values = torch.where((lacking & covered)[:, None], self._mean(name), values)
                else:
                    covered = covered & ~lacking
            weight = self.projection[name].weight
            values = torch.where(covered[:, None], self.projection[name](values.to(weight.dtype)), 0.0)
            if name in self.missing_vector:
                ids = torch.arange(len(covered), device=covered.device) if items is None else items
                real = (ids > 0) & (ids < self.n_items)
                values = torch.where((real & ~covered)[:, None], self.missing_vector[name].to(values.dtype), values)
                covered = covered | real
            projected.append(values)
            available.append(covered)
        return torch.stack(projected, 1), torch.stack(available, 1)

    def _mean(self, name: str) -> Tensor:
        """Of the features of all items, which those without got too where ``missing`` is mean: [D]."""
        return getattr(self, f"values_{name}")[getattr(self, f"covered_{name}")].mean(0)

    @contextmanager
    def lacking(self, name: str, items: Tensor) -> Iterator[None]:
        """While in force items (bool [N]) lack a modality, as those without features do by the policy ``missing``."""
        by_mean = self.missing == "mean"
        attribute = f"values_{name}" if by_mean else f"covered_{name}"
        whole, covered = getattr(self, attribute), getattr(self, f"covered_{name}")
        if by_mean:
            reduced = torch.where((items & covered)[:, None], self._mean(name), whole)
        else:
            reduced = covered & ~items
        setattr(self, attribute, reduced)
        try:
            yield
        finally:
            setattr(self, attribute, whole)

    def told(self) -> dict[str, dict]:
        """What a checkpoint keeps of each modality: which features these are, and how they were scaled."""
        return {
            name: {"digest": self.digests[name], "mean": scaling.mean, "spread": scaling.spread}
            for name, scaling in self.scalings.items()
        }

    @torch.no_grad()
    def restore(self, told: dict[str, dict]) -> None:
        """Scale as a checkpoint's features were, whatever interactions the dataset has now.

        Raises PRISMError if a modality has other features than the checkpoint was trained with.
        """
        for name, then in told.items():
            if then["digest"] != self.digests[name]:
                raise PRISMError(
                    f"the checkpoint was trained with other features of modality {name!r} than the dataset has now; "
                    "bring back the file it was trained with, or train again"
                )
            now = self.scalings[name]
            if np.array_equal(now.mean, then["mean"]) and np.array_equal(now.spread, then["spread"]):
                continue
            values, covered = getattr(self, f"values_{name}"), getattr(self, f"covered_{name}")
            factor = torch.from_numpy(now.spread / then["spread"]).to(values)
            shift = torch.from_numpy((now.mean - then["mean"]) / then["spread"]).to(values)
            values.copy_(torch.where(covered[:, None], values * factor + shift, values))
            self.scalings[name] = feature_files.Scaling(now.kind, then["mean"], then["spread"])


def modality_sources(config) -> dict[str, str]:
    """Name of each modality -> file or field. A list of names stands for files NAME.MODALITY.safetensors."""
    modalities = config["modalities"]
    if isinstance(modalities, str):
        modalities = [modalities]
    if not isinstance(modalities, dict):
        modalities = dict.fromkeys(modalities)
    return {name: source or f"{config['dataset']}.{name}.safetensors" for name, source in modalities.items()}


def feature_folders(config) -> list[Path]:
    """Where feature files are looked for, in order: the user's data_path, RecBole's, and the embedded one."""
    dataset = config["dataset"]
    user = config.external_config_dict.get("data_path") if hasattr(config, "external_config_dict") else None
    folders = [Path(user) / dataset] if user else []
    folders += [Path(config["data_path"]), Path("dataset") / dataset, DATASETS / dataset]
    return list(dict.fromkeys(folders))


def find_feature_file(config, source: str) -> Path:
    """The first existing file of that name. Raises PRISMError listing the folders and what lies there."""
    if Path(source).is_absolute():
        return Path(source)
    candidates = [folder / source for folder in feature_folders(config)] + [Path(source)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    found = sorted(
        {
            f.name
            for folder in feature_folders(config)
            if folder.is_dir()
            for f in folder.glob("*")
            if f.suffix in feature_files.READERS
        }
    )
    raise PRISMError(
        f"{source}: no such feature file in {', '.join(str(c.parent) for c in candidates[:-1])}"
        f"{suggest(source, found)}; make it with `recbole-prism encode`, name other modalities (there: {found}), "
        "or write {NAME: FIELD} for a field of the .item file"
    )


def load_modality(config, dataset, name: str, source: str) -> feature_files.Aligned:
    """Features of one modality on RecBole's ids, from a feature file or a field of the .item file.

    A stand-in for a dataset (``recommend.standin``) brings its features itself.
    """
    if hasattr(dataset, "aligned_features"):
        return dataset.aligned_features[name]
    if Path(source).suffix not in feature_files.READERS:
        return from_item_field(config, dataset, name, source)
    path = find_feature_file(config, source)
    return feature_files.align(feature_files.read_features(path), dataset.field2id_token[dataset.iid_field], path=path)


def trained_items(dataset) -> np.ndarray:
    """bool [n_items]: items of the dataset's interactions (the training part, where a model is built by RecBole)."""
    counts = np.bincount(dataset.inter_feat[dataset.iid_field].numpy(), minlength=dataset.item_num)
    return counts > 0


def _log_coverage(dataset, name: str, aligned: feature_files.Aligned) -> None:
    covered = aligned.covered
    items = dataset.inter_feat[dataset.iid_field].numpy()
    getLogger().info(
        f"modality {name}: {covered.sum()} of {len(covered) - 1} items ({covered[1:].mean():.1%}), "
        f"{covered[items].mean() if len(items) else 0:.1%} of training interactions, "
        f"dimension {aligned.features.shape[1]}, encoder {aligned.encoder}"
    )
