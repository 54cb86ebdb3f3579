"""Our configuration keys: where their defaults come from, and what may be set.

RecBole accepts misspelt keys silently. For our models a key that neither RecBole nor we know is an error naming the
nearest one, and a value of the wrong type or range is an error naming key, value and what is allowed.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path

import yaml

from recbole_prism.checks import CHECKS, RECBOLE
from recbole_prism.errors import PRISMError, nearest, suggest
from recbole_prism.models.table import BACKBONES, MODELS
from recbole_prism.paths import PROPERTIES

STRICT_COMMAND_LINE = False  # True in our own commands, where every option is meant for us


def model_yamls(model: str) -> list[Path]:
    """Our yaml files for a model, least specific first. Raises PRISMError if one that must exist is missing."""
    backbone = MODELS.get(model)
    own = [f"PRISM_{backbone}"] if backbone and BACKBONES[backbone].own_file else []
    files = [PROPERTIES / "model" / f"{name}.yaml" for name in ("PRISM", *own)]
    for file in files:
        if not file.is_file():
            raise PRISMError(f"{file}: missing; reinstall recbole-prism")
    return files


def check_config(config, model: str) -> None:
    """Raise PRISMError for unknown keys and for values out of type or range."""
    from torch import nn

    from recbole_prism.fusion import find_fusion

    _check_keys(config, model)
    values = config.final_config_dict
    for key, (holds, allowed) in (CHECKS | RECBOLE).items():
        if key in values and not holds(values[key]):
            raise PRISMError(f"{key}: {values[key]!r} is not allowed; must be {allowed}")
    modalities = values["modalities"]
    for name in [modalities] if isinstance(modalities, str) else modalities:
        if hasattr(nn.ModuleDict, name):
            raise PRISMError(f"modalities: {name!r} is a name that torch keeps for itself; call the modality otherwise")
    _check_backbone(values, MODELS[model])
    find_fusion(values["fusion"])
    _check_lambdas(values)
    _check_experts_off(values)


def read_text(key: str, value: object) -> object:
    """What a yaml file would make of [text] and {item: [item_id]}, which RecBole's command line leaves as text.

    ~ means nothing for keys of ours; elsewhere it may be a separator.
    """
    if isinstance(value, str) and (value[:1] in ("[", "{") or (value == "~" and key in CHECKS)):
        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(value)
    return value


def _check_backbone(values: dict, name: str) -> None:
    """What the backbone itself cannot do."""
    backbone = BACKBONES[name]
    if values["fusion_scope"] not in backbone.scopes:
        raise PRISMError(
            f"fusion_scope: {values['fusion_scope']!r} is impossible with {name}, which reads the distinct items of a "
            f"row without their order; set {' or '.join(backbone.scopes)}"
        )
    if not backbone.content and (values["score_items"] == "content" or values["cold_item_spread"] is not None):
        key = "score_items: content" if values["score_items"] == "content" else "cold_item_spread"
        raise PRISMError(f"{key} is impossible with {name}, which scores with a table of its own")
    if values.get("train_stage") == "finetune" and not Path(values.get("pre_model_path") or "").is_file():
        raise PRISMError(
            f"pre_model_path: {values.get('pre_model_path')!r} is no file; train_stage: finetune needs the checkpoint "
            "of a run with train_stage: pretrain"
        )
    loss = values.get("loss_type")
    if loss in ("CE", "BPR") and loss not in backbone.losses:
        raise PRISMError(f"loss_type: {loss!r} is impossible with {name}; must be one of {list(backbone.losses)}")


def check_valid_metric(config) -> None:
    """Raise PRISMError if early stopping asks for what is not computed, before an epoch is trained."""
    if "eval_step" in config and (config["eval_step"] or 0) <= 0:
        return
    wanted, computed = config["valid_metric"], computed_metrics(config["metrics"], config["topk"])
    if str(wanted).lower() not in map(str.lower, computed):
        raise PRISMError(f"valid_metric: {wanted!r} is not computed; metrics and topk give {', '.join(computed)}")


def computed_metrics(metrics: str | list[str], topk: int | list[int]) -> list[str]:
    """Names of RecBole's results: NDCG@10, but AUC. Raises PRISMError for what cannot name metrics or ranks."""
    from recbole.evaluator.register import metric_types
    from recbole.utils import EvaluatorType

    metrics = [metrics] if isinstance(metrics, str) else metrics
    topk = [topk] if isinstance(topk, int) else topk
    for key, values, kind in (("metrics", metrics, str), ("topk", topk, int)):
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, kind) for value in values):
            noun = "names" if kind is str else "integers"
            raise PRISMError(f"{key}: {values!r} is not allowed; must be a list of {noun}")
    names = []
    for metric in metrics:
        at_k = metric_types.get(metric.lower()) != EvaluatorType.VALUE and metric.lower() != "gauc"
        names += [f"{metric}@{k}" for k in topk] if at_k else [metric]
    return names


def check_feature_files(config) -> None:
    """Raise PRISMError for a feature file that does not exist, before data are loaded."""
    from recbole_prism.features import READERS
    from recbole_prism.modalities import find_feature_file, modality_sources

    for source in modality_sources(config).values():
        if Path(source).suffix in READERS:
            find_feature_file(config, source)


def _check_lambdas(values: dict) -> None:
    unique, modalities = values["lambda_unique"], values["modalities"]
    names = [modalities] if isinstance(modalities, str) else list(modalities)
    if isinstance(unique, dict) and set(unique) != set(names):
        raise PRISMError(f"lambda_unique: has {sorted(unique)}, needs exactly the modalities {sorted(names)}")


def _check_experts_off(values: dict) -> None:
    from recbole_prism.experts import expert_names

    modalities = values["modalities"]
    names = expert_names([modalities] if isinstance(modalities, str) else list(modalities))
    for name in values["experts_off"]:
        if name not in names:
            raise PRISMError(f"experts_off: {name!r} is none of the experts {names}{suggest(str(name), names)}")
    if set(names) <= set(values["experts_off"]):
        raise PRISMError("experts_off: names all experts; set fusion: none instead")


def _check_keys(config, model: str) -> None:
    """Unknown keys of files, dicts and the command line.

    Other programs (a test runner, a notebook) have options of their own on the command line RecBole reads, so an
    unknown option there is an error only if it looks like a misspelt key, or if the program is ours.
    """
    known = known_keys() | set(config.internal_config_dict)
    for key in config.external_config_dict:
        if key in known or is_known(key):
            continue
        elsewhere = key in config.cmd_config_dict and key not in config.file_config_dict | config.variable_config_dict
        if elsewhere and not STRICT_COMMAND_LINE and not nearest(key, known):
            getLogger().warning(f"--{key}: known neither to RecBole nor to {model}; ignored")
            continue
        raise PRISMError(f"{key}: known neither to RecBole nor to {model}{suggest(key, known)}")


def is_known(key: str) -> bool:
    """Whether RecBole or we read a key of that name."""
    return key in known_keys() or key in _keys_in_recbole_code()


@functools.cache
def known_keys() -> frozenset[str]:
    """All keys that RecBole's and our yaml files and argument lists know."""
    import recbole
    from recbole.utils import argument_list

    lists = (getattr(argument_list, name) for name in dir(argument_list) if name.endswith("_arguments"))
    keys = {key for arguments in lists for key in arguments} | set(CHECKS)
    keys |= {
        "model",
        "dataset",
        "config_files",
        "nproc",
        "ip",
        "port",
        "world_size",
        "group_offset",
        "offset",
        "local_rank",
    }
    for folder in (Path(recbole.__file__).parent / "properties", PROPERTIES):
        for file in folder.rglob("*.yaml"):
            keys.update(re.findall(r"^(\w+)\s*:", file.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return frozenset(keys)


@functools.cache
def _keys_in_recbole_code() -> frozenset[str]:
    """Keys that only RecBole's code knows (``config["fields_in_same_space"]``); read when a key seems unknown."""
    import recbole

    keys: set[str] = set()
    for file in Path(recbole.__file__).parent.rglob("*.py"):
        keys.update(re.findall(r"config\[\s*[\"'](\w+)[\"']\s*\]", file.read_text(encoding="utf-8")))
    return frozenset(keys)


def read_yaml(path: Path) -> dict:
    """A yaml file as a dict. Raises PRISMError naming the file and line if it cannot be read."""
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PRISMError(f"{path}: cannot be read as yaml ({' '.join(str(error).split())})") from error
    if contents is not None and not isinstance(contents, dict):
        raise PRISMError(f"{path}: must hold `key: value` lines, holds a {type(contents).__name__}")
    return contents or {}


def read_settings(pairs: Iterable[str]) -> dict:
    """``--set KEY=VALUE``, values as in a yaml file. Raises PRISMError for what cannot be read."""
    settings = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            raise PRISMError(f"{text!r}: not understood; settings are written as KEY=VALUE")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PRISMError(f"{text!r}: the value cannot be read ({' '.join(str(error).split())})") from error
    return settings
