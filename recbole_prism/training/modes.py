"""Which models can train packed, what configuration that takes, and the dataset and trainer that go with it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import getLogger

from recbole_prism.candidates import score_cosine, with_cosine
from recbole_prism.errors import PRISMError
from recbole_prism.models.table import BACKBONES

CAUSAL = ("SASRec", "GRU4Rec", "SASRecF", "GRU4RecF", "FDSA")  # backbones with an encoder in ``encoders.PACKED``
MASKED = "BERT4Rec"  # loss and encoder are ours (``masked.py``); packed, it has fewer rows (``masking.py``)
PLAIN = (*CAUSAL, MASKED)  # of RecBole's own, those that train as ours do if their config has ``training_mode``
COMPARES = "expert_loss_on: prediction compares predictions for several variants of a row"
# Keys of ours that RecBole's own backbones have as well
KEYS = ("window_stride", "window_offset", "num_negatives", "negative_distribution", "ema_decay", "cosine_temperature")
LOSSES = ("CE", "BPR", "sampled")
SMOOTHING = 0.2  # target_smoothing of its own accord, where it is possible (docs/choices.md)
BOTH_SIDES = "attends to both sides of a position, so one pass cannot train every prefix of a sequence"
FOREIGN_ROWS = "benchmark_filename brings rows that were made elsewhere"
WHOLE_ROW = "pools or weighs the row as a whole, so one pass cannot train every prefix of a sequence"
BY_ROW = "loses by row: its softmax treats the items of the row's own history apart"
NOT_PACKED = {  # backbone: why one pass over a sequence does not give what its rows give
    **dict.fromkeys(("BERT4Rec", "S3Rec", "CORE"), BOTH_SIDES),
    **dict.fromkeys(("FOSSIL", "HGN", "HRM", "NARM", "NPE", "SHAN", "SINE", "STAMP"), WHOLE_ROW),
    **dict.fromkeys(("SASRecCPR", "GRU4RecCPR"), BY_ROW),
    **dict.fromkeys(("SRGNN", "GCSAN"), "reads the distinct items of a row as a graph, which grows with every prefix"),
    "Caser": "convolves over a row of fixed length, padding included",
    "FEARec": "mixes all positions in the frequency domain",
    "LightSANs": "attends to interests pooled over the whole row",
    "NextItNet": "is causal, but reads its last place whatever a row's length, so padding enters shorter rows",
    "GRU4RecKG": "brings a dataset class that makes rows of its own",
    "KSR": "brings a dataset class that makes rows of its own, and reads a memory written row by row",
}


def why_not_packed(values: dict, backbone: str) -> str | None:
    """The reason why one pass cannot train every prefix of a sequence in this configuration, or None."""
    if backbone == MASKED:
        return why_not_drawn(values)
    if reason := why_not_encoded(values, backbone):
        return reason
    if values.get("fusion_scope") == "sequence":
        return "fusion_scope: sequence pools the whole row, so the future would reach earlier positions (use causal)"
    if _compares_predictions(values):
        return COMPARES
    return None


def why_not_drawn(values: dict) -> str | None:
    """The reason why BERT4Rec needs all of RecBole's rows, or None: packed, it draws some (``masking.py``)."""
    if values.get("transform") != "mask_itemseq":
        return f"{MASKED} is trained by transform: mask_itemseq, which is {values.get('transform')!r}"
    if values.get("benchmark_filename"):
        return FOREIGN_ROWS
    return None


def why_not_encoded(values: dict, backbone: str) -> str | None:
    """The reason why rows need the backbone's own ``forward``, with all its padding, or None."""
    if backbone in NOT_PACKED:
        return f"{backbone} {NOT_PACKED[backbone]}"
    if backbone not in CAUSAL:
        return f"{backbone} has no packed encoder (there is one for {', '.join(CAUSAL)})"
    if values.get("transform"):
        return f"transform: {values['transform']} rewrites rows, and packed training has none"
    if values.get("benchmark_filename"):
        return FOREIGN_ROWS
    if (values.get("train_neg_sample_args") or {}).get("dynamic"):
        return "train_neg_sample_args: dynamic picks negatives row by row"
    return None


def _compares_predictions(values: dict) -> bool:
    return values.get("expert_loss_on") == "prediction" and values.get("fusion") in ("prism", "prism+mib")


def resolve_training(values: dict, backbone: str) -> None:
    """Set training_mode, target_smoothing and the kind of softmax in ``values``. Raises PRISMError for what cannot be.

    ``unpadded`` says that batches are packed, be it whole sequences or (``rows``) a window for each target;
    ``own_loss`` that loss and encoder are ours. RecBole knows the losses CE and BPR: ``loss_type: sampled`` reaches it
    as CE, with ``sampled_softmax: True``.
    """
    reason = why_not_packed(values, backbone)
    if values.get("training_mode") == "packed" and reason:
        raise PRISMError(f"training_mode: packed is impossible here: {reason}; set training_mode: rows")
    if values.get("training_mode") is None:
        values["training_mode"] = "rows" if reason else "packed"
    packed = values["training_mode"] == "packed"
    padded = why_not_encoded(values, backbone) or (COMPARES if _compares_predictions(values) else None)
    values["unpadded"] = not padded
    stride, longest = values.get("window_stride"), values["MAX_ITEM_LIST_LENGTH"]
    if packed and isinstance(stride, int) and stride > longest:
        raise PRISMError(f"window_stride: {stride} is longer than a window (MAX_ITEM_LIST_LENGTH: {longest})")
    losses = dict.fromkeys((*LOSSES, *(BACKBONES[backbone].losses if backbone in BACKBONES else ())))
    if values.get("loss_type") not in (None, *losses):
        raise PRISMError(f"loss_type: {values['loss_type']!r} is not allowed; must be one of {list(losses)}")
    own_loss = values["own_loss"] = values["unpadded"] or backbone == MASKED
    if values.get("target_smoothing", 0) is None:
        values["target_smoothing"] = SMOOTHING if values.get("loss_type") == "CE" and own_loss else 0.0
    if values.get("target_smoothing") and values.get("loss_type") != "CE":
        raise PRISMError(f"target_smoothing: needs loss_type: CE, is {values.get('loss_type')!r}")
    if values.get("target_smoothing") and not own_loss:
        raise PRISMError(f"target_smoothing is impossible here: {padded}; set it to 0")
    if values.get("cosine_temperature") and backbone not in CAUSAL:
        raise PRISMError(f"cosine_temperature is impossible with {backbone}; there it is for {', '.join(CAUSAL)}")
    values["sampled_softmax"] = values.get("loss_type") == "sampled"
    if values["sampled_softmax"]:
        if not own_loss:
            raise PRISMError(f"loss_type: sampled is impossible here: {padded}")
        values["loss_type"] = "CE"


def warn_without_effect(config, backbone: str, keys: Iterable[str] | None = None) -> None:
    """Say in the log which keys that the user has set (of ``keys``, if given) change nothing beside the others."""
    from recbole_prism.checks import CHECKS
    from recbole_prism.fusion_keys import without_effect

    values = config.final_config_dict
    windows = values["training_mode"] == "packed" and backbone != MASKED
    reasons = {
        **dict.fromkeys(without_effect(values["fusion"], CHECKS) if "fusion" in values else (), "with this fusion"),
        **({} if windows else dict.fromkeys(("window_stride", "window_offset"), "without windows")),
        **(
            {}
            if values["sampled_softmax"]
            else dict.fromkeys(("num_negatives", "negative_distribution"), "without loss_type: sampled")
        ),
        **({} if values.get("target_smoothing") else {"smoothing_neighbours": "without target_smoothing"}),
        **({"expert_loss_samples": "on predictions"} if _compares_predictions(values) else {}),
    }
    given = config.external_config_dict.keys() & reasons.keys() & set(keys or reasons)
    for key in sorted(given):
        getLogger().warning(f"{key}: without effect {reasons[key]}")


def resolve_plain(config, backbone: str) -> bool:
    """The same for RecBole's own backbone, if the user sets ``training_mode``; else nothing is touched.

    Returns whether its loss is ours.
    """
    from recbole_prism.checks import CHECKS
    from recbole_prism.config import model_yamls, read_yaml

    values = config.final_config_dict
    mode = config.external_config_dict.get("training_mode")
    if mode is not None and mode not in ("packed", "rows"):
        raise PRISMError(f"training_mode: {mode!r} is not allowed; must be {CHECKS['training_mode'][1]}")
    given = sorted(config.external_config_dict.keys() & set(KEYS))
    if backbone not in PLAIN:
        for key in [*given, *(["training_mode"] if mode else [])]:
            getLogger().warning(f"{key}: without effect on RecBole's own {backbone}, only on {', '.join(PLAIN)}")
        return False
    if mode is None:
        for key in given:
            getLogger().warning(f"{key}: without effect on RecBole's own {backbone}, unless training_mode is set too")
        return False
    defaults = read_yaml(model_yamls("PRISM")[0])
    for key in KEYS:
        value = values.setdefault(key, defaults[key])
        holds, allowed = CHECKS[key]
        if not holds(value):
            raise PRISMError(f"{key}: {value!r} is not allowed; must be {allowed}")
    values.pop("target_smoothing", None)  # a model without features has no neighbours
    resolve_training(values, backbone)
    if not values["own_loss"]:
        for key in given:
            getLogger().warning(f"{key}: without effect here, where {backbone} is trained as RecBole does")
        return False
    warn_without_effect(config, backbone, KEYS)
    if values["loss_type"] == "CE" and "train_neg_sample_args" not in config.external_config_dict:
        values["train_neg_sample_args"] = None
    return True


@contextmanager
def any_protocol(values: dict, backbone: str) -> Iterator[None]:
    """RecBole refuses ``repeatable: False`` to sequential models (config/configurator.py:378); ours have it.

    Raises PRISMError where negatives are drawn for the evaluation: they would be drawn from a user's history too; and
    where rows do not tell what a user had before them.
    """
    wanted = values["repeatable"]
    if not isinstance(wanted, bool):
        raise PRISMError(f"repeatable: {wanted!r} is not allowed; must be True or False")
    if wanted is False and values.get("benchmark_filename"):
        raise PRISMError(f"repeatable: False needs the interactions themselves, and {FOREIGN_ROWS}")
    if wanted is False and BACKBONES[backbone].rows != "PrefixDataset":
        raise PRISMError(f"repeatable: False is impossible with {backbone}, which makes rows of its own; leave it out")
    modes = (values.get("eval_args") or {}).get("mode") or "full"
    if wanted is False and set(modes.values() if isinstance(modes, dict) else [modes]) != {"full"}:
        raise PRISMError(f"repeatable: False needs eval_args: {{mode: full}}, is {modes!r}")
    values["repeatable"] = True
    try:
        yield
    finally:
        values["repeatable"] = wanted


def window_stride(config) -> int | None:
    """Targets between windows; RecBole's rows for the tail are windows that advance by one. None: rows throughout."""
    if config["training_mode"] == "rows":
        return None
    stride = config["window_stride"]
    return 1 if stride == "exact" else stride or config["MAX_ITEM_LIST_LENGTH"]


def register_plain(name: str) -> None:
    """RecBole's own backbone gets our batches if its config says so, and is otherwise what it was."""
    import recbole.data.dataset as datasets
    import recbole.trainer as trainers
    from recbole.utils import get_model

    backbone = get_model(name)
    initialize = backbone.__init__

    @functools.wraps(initialize)
    def __init__(self, config, dataset):
        initialize(self, config, dataset)
        if type(self) is backbone and config["training_mode"] and config["cosine_temperature"]:
            self.__class__ = with_cosine(backbone)
            score_cosine(self, config["cosine_temperature"])

    backbone.__init__ = __init__

    class ChosenDataset(datasets.SequentialDataset):
        """RecBole's, or ours where the loss is."""

        def __new__(cls, config):
            if cls is not ChosenDataset:
                return super().__new__(cls)
            from recbole_prism.training.dataset import PrefixDataset

            return (PrefixDataset if config["own_loss"] else datasets.SequentialDataset)(config)

    class ChosenTrainer(trainers.Trainer):
        """RecBole's, or ours where the loss is."""

        def __new__(cls, config, model):
            if cls is not ChosenTrainer:
                return super().__new__(cls)
            from recbole_prism.training.trainer import PackedTrainer

            return (PackedTrainer if config["own_loss"] else trainers.Trainer)(config, model)

    ChosenDataset.__name__ = "SequentialDataset"  # RecBole looks for a saved dataset under this name
    setattr(datasets, f"{name}Dataset", ChosenDataset)
    setattr(trainers, f"{name}Trainer", ChosenTrainer)


def register_ours(name: str) -> None:
    """A PRISM model gets our trainer, and rows without lists however it trains."""
    import recbole.data.dataset as datasets
    import recbole.trainer as trainers

    from recbole_prism.training.dataset import PrefixDataset
    from recbole_prism.training.trainer import PRISMTrainer

    setattr(datasets, f"{name}Dataset", PrefixDataset)
    setattr(trainers, f"{name}Trainer", PRISMTrainer)
