"""Our configuration keys: where their defaults come from, and what may be set.

RecBole accepts misspelt keys silently. For our models a key that neither RecBole nor we know is an error naming the
nearest one, and a value of the wrong type or range is an error naming key, value and what is allowed.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable
from logging import getLogger
from numbers import Integral, Real
from pathlib import Path

import yaml

from recbole_prism.errors import PRISMError, nearest, suggest
from recbole_prism.models.table import BACKBONES, MODELS
from recbole_prism.paths import PROPERTIES

STRICT_COMMAND_LINE = False  # True in our own commands, where every option is meant for us

Check = tuple[Callable[[object], bool], str]


def _number(low: float, high: float = float("inf"), *, open_low: bool = False, kind=(int, float)) -> Check:
    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        return (low < value if open_low else low <= value) and value <= high

    noun = "an integer" if kind in (int, Integral) else "a number"
    upper = "" if high == float("inf") else f" and at most {high}"
    return holds, f"{noun} {'greater than' if open_low else 'of at least'} {low}{upper}"


def _one_of(*allowed: str) -> Check:
    return lambda value: value in allowed, f"one of {list(allowed)}"


def _is_lambda(value: object) -> bool:
    number = _number(0)[0]
    return all(map(number, value.values())) if isinstance(value, dict) else number(value)


def _is_modalities(value: object) -> bool:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, dict)) or not names or len(set(names)) != len(names):
        return False
    sources = names.values() if isinstance(names, dict) else []
    return all(isinstance(n, str) and re.fullmatch(r"\w+", n) for n in names) and all(
        s is None or isinstance(s, str) for s in sources
    )


POSITIVE_INT = _number(1, kind=int)


def _is_stride(value: object) -> bool:
    return value is None or value == "exact" or POSITIVE_INT[0](value)


RATE = (lambda value: _number(0)[0](value) and value < 1, "a number of at least 0 and below 1")
BOOL: Check = (lambda value: isinstance(value, bool), "True or False")

CHECKS: dict[str, Check] = {
    "modalities": (_is_modalities, "a list of distinct names (letters, digits, _), or a dict of name: file or field"),
    "missing": _one_of("zero", "mean", "learned", "error"),
    "feature_scaling": _one_of("none", "standardize", "unit"),
    "feature_length": _number(0, open_low=True),
    "projection_init": _number(0, open_low=True),
    "add_projections": BOOL,
    "score_items": _one_of("id", "content"),
    "cosine_temperature": (
        lambda value: value is None or _number(0, open_low=True)[0](value),
        "a number above 0, or nothing",
    ),
    "cold_item_spread": (
        lambda value: value is None or (_number(0)[0](value) and value <= 1),
        "a number from 0 to 1, or nothing",
    ),
    "modality_dropout": RATE,
    "expert_loss_on": _one_of("representation", "prediction"),
    "expert_loss_samples": (  # of one history there is no spread that noise could match
        lambda value: value is None or _number(2, kind=int)[0](value),
        "an integer of at least 2, or nothing",
    ),
    "expert_hidden_size": POSITIVE_INT,
    "expert_dropout": RATE,
    "expert_distance": _one_of("cosine", "euclidean"),
    "expert_margin": _number(0),
    "noise_scale": _one_of("match", "unit"),
    "experts_off": (lambda value: isinstance(value, (list, tuple)), "a list of experts"),
    "lambda_unique": (_is_lambda, "a number of at least 0, or a dict with one for every modality"),
    "lambda_synergy": _number(0),
    "lambda_redundancy": _number(0),
    "lambda_routing": _number(0),
    "alpha_bottleneck": _number(0),
    "alpha_redundancy": _number(0),
    "alpha_unique": _number(0),
    "redundancy_estimator": _one_of("vclub", "mine"),
    "unique_candidates": _number(2, kind=int),
    "mlp_matches": _one_of("prism", "prism+mib", "prism+residual", "mrdib"),
    "fusion_hidden_size": POSITIVE_INT,
    "fusion_dropout": RATE,
    "fusion_temperature": _number(0, open_low=True),
    "fusion_scope": _one_of("sequence", "causal"),
    "training_mode": (lambda value: value in (None, "packed", "rows"), "'packed', 'rows' or nothing"),
    "window_stride": (_is_stride, "an integer of at least 1, 'exact' or nothing"),
    "window_offset": BOOL,
    "num_negatives": POSITIVE_INT,
    "negative_distribution": _one_of("popularity", "uniform"),
    "target_smoothing": (lambda value: value is None or RATE[0](value), f"{RATE[1]}, or nothing"),
    "smoothing_neighbours": POSITIVE_INT,
    "ema_decay": (
        lambda value: value is None or (_number(0, open_low=True)[0](value) and value < 1),
        "a number between 0 and 1, or nothing",
    ),
    "torch_compile": (lambda value: isinstance(value, (bool, str)), "True, False or the name of a backend of torch"),
    "report": BOOL,
    "figures": BOOL,
    "resume": (lambda value: value is None or isinstance(value, str), "the path of a checkpoint"),
}


RECBOLE: dict[str, Check] = {  # keys of RecBole's whose wrong values end in errors that name none
    "learning_rate": _number(0, kind=Real),
    **dict.fromkeys(("MAX_ITEM_LIST_LENGTH", "train_batch_size", "eval_batch_size"), _number(1, kind=Integral)),
    **dict.fromkeys(("epochs", "stopping_step"), _number(0, kind=Integral)),
}


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
