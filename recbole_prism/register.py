"""The few hooks through which RecBole finds our models.

``register()`` is called once, by ``import recbole_prism`` in a program, by our commands where they need RecBole.
Afterwards RecBole's own ``get_model``, ``run_recbole``,
``objective_function`` and ``load_data_and_model`` know every model of ``MODELS``.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from recbole_prism import compat
from recbole_prism.models.table import BACKBONES, MODELS, defaults


@functools.cache
def register() -> None:
    """Make RecBole run on current packages and know our models. Costs nothing the second time."""
    compat.apply()
    import recbole.quick_start.quick_start as quick_start

    from recbole_prism import distributed
    from recbole_prism.models import factory
    from recbole_prism.training import loading, modes

    for name in MODELS:
        factory.register_model(name)
    factory.register_refused()
    for name in modes.PLAIN:
        modes.register_plain(name)
    _hook_config()
    distributed.hook(quick_start)
    loading.hook()


def _hook_config() -> None:
    """Our yaml files after RecBole's, checks of what was set, lists typed as in yaml, and ml-100k from data_path."""
    from recbole.config import Config
    from recbole.utils import ModelType

    load, set_defaults, read_files, convert = (
        Config._load_internal_config_dict,
        Config._set_default_parameters,
        Config._load_config_files,
        Config._convert_config_dict,
    )

    @functools.wraps(load)
    def _load_internal_config_dict(self, model, model_class, dataset):
        backbone = MODELS.get(model)
        load(self, (BACKBONES[backbone].keys_of or backbone) if backbone else model, model_class, dataset)
        if backbone:
            _load_our_files(self, model)
        _load_dataset_file(self, dataset)
        if backbone:
            _need_no_negatives(self)

    @functools.wraps(set_defaults)
    def _set_default_parameters(self):
        from recbole_prism.atomic import check_atomic_files
        from recbole_prism.config import check_config, check_feature_files
        from recbole_prism.training import modes

        values, backbone = self.final_config_dict, MODELS.get(self.model)
        if backbone:
            check_config(self, self.model)
            modes.resolve_training(values, backbone)
            modes.warn_without_effect(self, backbone)
            ours = True
        else:
            ours = modes.resolve_plain(self, self.model)
        own = os.path.join(values["data_path"], self.dataset)
        with modes.any_protocol(values, backbone or self.model) if ours else contextlib.nullcontext():
            set_defaults(self)
        if Path(own, f"{self.dataset}.inter").is_file():  # RecBole forces ml-100k into its own folder
            values["data_path"] = own
        check_atomic_files(values, backbone or self.model, sequential=values["MODEL_TYPE"] == ModelType.SEQUENTIAL)
        if backbone:
            check_feature_files(self)

    @functools.wraps(read_files)
    def _load_config_files(self, file_list):
        from recbole_prism.config import read_yaml

        # one clear message instead of yaml's traceback, and none for a file of comments alone
        return read_files(self, [file for file in file_list or () if read_yaml(Path(file))])

    @functools.wraps(convert)
    def _convert_config_dict(self, config_dict):
        from recbole_prism.config import read_text

        return {key: read_text(key, value) for key, value in convert(self, config_dict).items()}

    Config._load_internal_config_dict = _load_internal_config_dict
    Config._set_default_parameters = _set_default_parameters
    Config._load_config_files = _load_config_files
    Config._convert_config_dict = _convert_config_dict


def _load_our_files(config, model: str) -> None:
    from recbole_prism.config import model_yamls
    from recbole_prism.fusion import FUSIONS

    shared, *own = model_yamls(model)
    config._update_internal_config_dict(str(shared))
    internal = config.internal_config_dict
    internal.update(defaults(model))
    fusion = FUSIONS.get(config.external_config_dict.get("fusion", internal["fusion"]))
    internal.update(getattr(fusion, "defaults", {}))
    for file in own:
        config._update_internal_config_dict(str(file))


def _load_dataset_file(config, dataset: str) -> None:
    """What ``recbole-prism prepare`` says of a dataset, for RecBole's own models too."""
    from recbole_prism.datasets import dataset_yaml

    internal = config.internal_config_dict
    file = dataset_yaml(dataset, config.external_config_dict.get("data_path", internal["data_path"]))
    if file:
        config._update_internal_config_dict(str(file))


def _need_no_negatives(config) -> None:
    internal, external = config.internal_config_dict, config.external_config_dict
    loss_type = external.get("loss_type", internal.get("loss_type"))
    if loss_type in ("CE", "sampled") and "train_neg_sample_args" not in external:
        internal["train_neg_sample_args"] = None  # RecBole asks every user of CE to write this down
