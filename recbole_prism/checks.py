"""What values keys may have: ours (``CHECKS``), and those of RecBole's that it would not check itself (``RECBOLE``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from numbers import Integral, Real

Check = tuple[Callable[[object], bool], str]


def _number(low: float, high: float = float("inf"), *, open_low: bool = False, kind=(int, float)) -> Check:
    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        return (low < value if open_low else low <= value) and value <= high

    noun = "an integer" if kind is Integral else "a number"
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


POSITIVE_INT = _number(1, kind=Integral)


def _is_stride(value: object) -> bool:
    return value is None or value == "exact" or POSITIVE_INT[0](value)


RATE = (lambda value: _number(0)[0](value) and value < 1, "a number of at least 0 and below 1")
SHARE = (lambda value: _number(0)[0](value) and value <= 1, "a number from 0 to 1")
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")  # RecBole takes Adam for any other
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
        lambda value: value is None or SHARE[0](value),
        f"{SHARE[1]}, or nothing",
    ),
    "modality_dropout": RATE,
    "expert_loss_on": _one_of("representation", "prediction"),
    "expert_loss_samples": (  # of one history there is no spread that noise could match
        lambda value: value is None or _number(2, kind=Integral)[0](value),
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
    "unique_candidates": _number(2, kind=Integral),
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


def _is_eval_args(value: object) -> bool:
    """Of RecBole's splits and modes those that a sequential model is evaluated by."""
    if not isinstance(value, dict):
        return False
    split, mode = value.get("split", {"LS": "valid_and_test"}), value.get("mode", "full")
    if not isinstance(split, dict) or len(split) != 1:
        return False
    ((method, parts),) = split.items()
    if method == "RS":
        splits = isinstance(parts, (list, tuple)) and len(parts) == 3 and all(map(_number(0)[0], parts))
    else:
        splits = method == "LS" and parts in ("valid_and_test", "valid_only", "test_only")
    modes = mode.values() if isinstance(mode, dict) else [mode]
    return splits and all(isinstance(each, str) and re.fullmatch(r"full|(uni|pop)[1-9]\d*", each) for each in modes)


RECBOLE: dict[str, Check] = {  # keys of RecBole's whose wrong values end in errors that name none, or in none
    **dict.fromkeys(("learning_rate", "weight_decay"), _number(0, kind=Real)),
    **dict.fromkeys(("MAX_ITEM_LIST_LENGTH", "train_batch_size", "eval_batch_size"), POSITIVE_INT),
    **dict.fromkeys(("hidden_size", "embedding_size", "inner_size", "n_layers", "n_heads", "num_layers"), POSITIVE_INT),
    **dict.fromkeys(("epochs", "stopping_step", "eval_step", "seed"), _number(0, kind=Integral)),
    **dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob"), RATE),
    **dict.fromkeys(("mask_ratio", "ft_ratio"), SHARE),
    "train_stage": _one_of("pretrain", "finetune"),
    "hidden_act": _one_of("gelu", "relu", "swish", "tanh", "sigmoid"),
    "learner": (
        lambda value: isinstance(value, str) and value.lower() in LEARNERS,
        f"one of {list(LEARNERS)}",
    ),
    "clip_grad_norm": (
        lambda value: value is None or isinstance(value, dict),
        "a dict of torch's clip_grad_norm_, such as {max_norm: 5, norm_type: 2}, or nothing",
    ),
    "eval_args": (
        _is_eval_args,
        "a dict with split: {LS: valid_and_test} or {RS: [0.8, 0.1, 0.1]}, mode: full, uni100 or pop100",
    ),
}
