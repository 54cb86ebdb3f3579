"""What is compared: models x datasets x seeds x controls, from the command line or a yaml file."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from recbole_prism.errors import PRISMError, suggest

# One split for all models, also for those whose RecBole default is another; later keys of the user win.
SHARED = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "topk": [10, 20],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "show_progress": False,
}

NO_LOSSES = {"lambda_unique": 0, "lambda_synergy": 0, "lambda_redundancy": 0, "lambda_routing": 0}
NO_LOSSES |= {"alpha_bottleneck": 0, "alpha_redundancy": 0, "alpha_unique": 0}  # each fusion reads some of them
CONTROLS: dict[str, dict] = {  # what tells a gain of the method from a gain of parameters or features
    "no_unique_loss": {"lambda_unique": 0},
    "no_synergy_loss": {"lambda_synergy": 0},
    "no_redundancy_loss": {"lambda_redundancy": 0},
    "no_losses": NO_LOSSES,
    "no_smoothing": {"target_smoothing": 0},
    "uniform_gate": {"fusion_temperature": 1e9},  # the softmax of what is divided by so much is uniform
    "score_id": {"score_items": "id"},
    "score_content": {"score_items": "content"},
    "cold_predicted": {"cold_item_spread": 1},
    "no_projections": {"add_projections": False},
    "projections_only": {"fusion": "none"},
    "sum": {"fusion": "sum"},
    "concat": {"fusion": "concat"},
    "gate": {"fusion": "gate"},
    "mlp": {"fusion": "mlp"},  # one MLP with as many parameters as the model's fusion
}
LABEL = re.compile(r"[\w(][\w .,=()-]*")
WITHOUT = "without_"  # without_synergy: that expert and its loss left out
FEATURES = {"shuffled_features": "shuffled", "noise_features": "noise"}  # made in the run's folder (compare.job)
ONLY = "only_"  # only_text: that modality alone


@dataclass(frozen=True)
class Job:
    """One training run: a row of the table is (dataset, label), its values are over seeds."""

    dataset: str
    label: str
    model: str
    seed: int
    settings: dict = field(hash=False)
    features: str | None = None  # shuffled, noise
    cold_items: float | None = None

    def folder(self, root: Path) -> Path:
        """Of this run and no other: the name holds a digest of all that is set."""
        said = [self.model, self.dataset, self.seed, self.settings, self.features]
        said += [] if self.cold_items is None else [self.cold_items]
        said += defaults_of(self.model)
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:10]
        return root / "runs" / self.dataset / self.label / f"seed-{self.seed}-{digest}"


def shared_eval_args(*given: dict) -> dict:
    """``eval_args`` of SHARED with the parts that are given in their place: ``{mode: uni100}`` keeps the split."""
    eval_args = dict(SHARED["eval_args"])
    for settings in given:
        told = settings.get("eval_args")
        if told is None:
            continue
        if not isinstance(told, dict):
            raise PRISMError(f"eval_args: {told!r} is not a mapping of {', '.join(eval_args)}")
        for key in told:
            if key not in SHARED["eval_args"]:
                raise PRISMError(f"eval_args: {key!r} is not one of {', '.join(eval_args)}")
        eval_args.update(told)
    return eval_args


@dataclass
class Plan:
    """models {label: its own settings, and ``model`` if the label is no model's name, and ``config_files``, which come
    before what all share}; controls apply to PRISM models; settings to all."""

    models: dict[str, dict]
    datasets: list[str]
    seeds: list[int]
    controls: list[str]
    settings: dict
    baseline: str
    cold_items: float | None = None

    def jobs(self) -> list[Job]:
        """Seed by seed, so that a table of all models is there early. Raises PRISMError for unknown names."""
        from recbole_prism.models.table import MODELS
        from recbole_prism.run import check_model, plain_defaults

        jobs = []
        for seed in self.seeds:
            for dataset in self.datasets:
                for label, own in self.models.items():
                    own = dict(own)
                    name, files = own.pop("model", label), own.pop("config_files", None) or []
                    check_model(name)
                    told = read_files(files, name, dataset)
                    settings = {**told, **SHARED, **self.settings, **own, "seed": seed}
                    settings["eval_args"] = shared_eval_args(self.settings, own)
                    given = given_settings(dataset, settings)
                    if name not in MODELS:
                        check_keys(name, {**told, **self.settings, **own})
                        settings = {**plain_defaults(name, given), **packed_defaults(name, given), **settings}
                    jobs.append(Job(dataset, label, name, seed, settings, None, self.cold_items))
                    for control in self.controls if name in MODELS else ():
                        changed = {**settings, **control_settings(control, {"fusion": fusion_of(name), **given})}
                        features = control_features(control)
                        jobs.append(Job(dataset, f"{label}+{control}", name, seed, changed, features, self.cold_items))
        return jobs


def read_files(files: str | list[str], model: str, dataset: str) -> dict:
    """Settings of yaml files, such as those of ``tune``; ``{model}`` and ``{dataset}`` in their names are filled in.

    Raises PRISMError for a file that names another model or dataset, or that cannot be read.
    """
    from recbole_prism.config import read_yaml

    settings: dict = {}
    for name in files.split() if isinstance(files, str) else files:
        file = Path(name.replace("{model}", model).replace("{dataset}", dataset))
        values = read_yaml(file)
        for what, ours in (("model", model), ("dataset", dataset)):
            theirs = values.pop(what, ours)
            if theirs != ours:
                raise PRISMError(f"{file}: is for {theirs}, not for {ours}; '{{{what}}}' in its name stands for either")
        settings.update(values)
    return settings


def check_keys(model: str, settings: dict) -> None:
    """RecBole ignores keys that it does not know; a baseline would be trained otherwise than the plan says."""
    from recbole_prism.config import is_known, known_keys

    for key in settings:
        if not is_known(key):
            raise PRISMError(f"{key}: known neither to RecBole nor to {model}{suggest(key, known_keys())}")


@functools.cache
def defaults_of(model: str) -> list[dict]:
    """What a PRISM model is where nothing is set: a run of other defaults, of another version, is another run."""
    from recbole_prism.config import model_yamls, read_yaml
    from recbole_prism.models.table import MODELS

    return [read_yaml(file) for file in model_yamls(model)] if model in MODELS else []


def packed_defaults(model: str, settings: dict) -> dict:
    """RecBole's own backbones train as PRISM's do where they can: the same losses, and costs that compare."""
    from recbole_prism.training.modes import CAUSAL, MASKED, why_not_packed

    if model == MASKED:
        reason = why_not_packed({"transform": "mask_itemseq", **settings}, model)
        return {"training_mode": "rows" if reason else "packed"}
    return {"training_mode": "packed"} if model in CAUSAL and not why_not_packed(settings, model) else {}


def given_settings(dataset: str, settings: dict) -> dict:
    """What a control changes: the dataset's yaml file, then the settings."""
    from recbole_prism.datasets import dataset_settings

    return {**dataset_settings(dataset, str(settings.get("data_path", "dataset/"))), **settings}


def fusion_of(model: str) -> str:
    """That of a PRISM model where nothing is set."""
    from recbole_prism.models.table import defaults

    return defaults(model)["fusion"]


def control_settings(name: str, given: Mapping = MappingProxyType({})) -> dict:
    """Settings of a preset, or of several joined by ``+``, on a run of the settings ``given``.

    Raises PRISMError for unknown names, with the nearest ones, for two that contradict each other, and for one that
    changes nothing of the fusion.
    """
    changed: dict = {}
    presets = {part: _preset(part, given) for part in name.split("+")}
    fusion = next((each["fusion"] for each in presets.values() if "fusion" in each), given.get("fusion"))
    for part, preset in presets.items():
        for key, value in _effective(part, preset, fusion).items():
            if key == "experts_off" and "modalities" not in preset:
                value = [*changed.get(key, given.get(key) or []), *value]
            elif changed.get(key, value) != value:
                raise PRISMError(f"control {name!r} sets {key} to {changed[key]!r} and to {value!r}; join others")
            changed[key] = value
    if changed.get("fusion") == "mlp" and given.get("fusion") in ("prism+mib", "prism+residual", "mrdib"):
        changed["mlp_matches"] = given["fusion"]
    return changed


def _effective(control: str, preset: dict, fusion: str | None) -> dict:
    """What of a preset the fusion reads (None: it is not known yet)."""
    from recbole_prism.fusion_keys import without_effect

    unread = without_effect(fusion, preset) if fusion else []
    if unread and len(unread) == len(preset):
        raise PRISMError(f"control {control!r} has no effect with fusion: {fusion}, which reads no {unread[0]}")
    return {key: value for key, value in preset.items() if key not in unread}


def _preset(name: str, given: Mapping) -> dict:
    from recbole_prism.experts import expert_names

    sources = given.get("modalities") or defaults_of("PRISM_SASRec")[0]["modalities"]
    sources = [sources] if isinstance(sources, str) else sources
    if name.startswith(ONLY) and name != ONLY:
        kept = name.removeprefix(ONLY)
        if given and kept not in sources:  # else the dataset is not known yet
            raise PRISMError(
                f"control {name!r}: no modality {kept!r}{suggest(kept, sources)}; there are {list(sources)}"
            )
        pruned: dict = {"modalities": {kept: sources[kept]} if isinstance(sources, Mapping) else [kept]}
        if isinstance(given.get("lambda_unique"), Mapping):
            pruned["lambda_unique"] = given["lambda_unique"].get(kept, 0)
        if given.get("experts_off"):
            pruned["experts_off"] = [name for name in given["experts_off"] if name in expert_names([kept])]
        return pruned
    if name.startswith(WITHOUT) and name != WITHOUT:
        expert, experts = name.removeprefix(WITHOUT), expert_names(list(sources))
        if given and expert not in experts:
            raise PRISMError(f"control {name!r}: no expert {expert!r}{suggest(expert, experts)}; there are {experts}")
        return {"experts_off": [expert]}
    if name in FEATURES:
        return {}
    if name not in CONTROLS:
        known = [*CONTROLS, *FEATURES, f"{WITHOUT}EXPERT", f"{ONLY}MODALITY"]
        raise PRISMError(f"control {name!r} is unknown{suggest(name, known)}; there are {', '.join(known)}")
    return CONTROLS[name]


def control_features(name: str) -> str | None:
    """Which features a control replaces the true ones by. Raises PRISMError for two of them."""
    kinds = [FEATURES[part] for part in name.split("+") if part in FEATURES]
    if len(kinds) > 1:
        raise PRISMError(f"control {name!r} asks for {' and for '.join(kinds)} features; name one of them")
    return kinds[0] if kinds else None


def make_plan(
    models: list[str] | Mapping[str, Mapping | None],
    datasets: list[str],
    seeds: int | list[int],
    *,
    controls: list[str] = (),
    settings: Mapping | None = None,
    baseline: str | None = None,
    cold_items: float | None = None,
) -> Plan:
    """A checked plan; ``seeds`` is how many or which; the baseline is the first model unless named; ``cold_items``: the
    share of items held out of training."""
    from recbole_prism.config import check_valid_metric

    models, datasets, controls = (
        [named] if isinstance(named, str) else named for named in (models, datasets, controls)
    )
    by_name = models if isinstance(models, Mapping) else dict.fromkeys(models)
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = list(range(1, seeds + 1))
    for what, values, kind in (("models", list(by_name), str), ("datasets", datasets, str), ("seeds", seeds, int)):
        if not isinstance(values, list) or not values or not all(isinstance(value, kind) for value in values):
            raise PRISMError(f"{what}: {values!r} is not allowed; name at least one")
        if len(set(values)) != len(values):
            raise PRISMError(f"{what}: {values!r} names one twice")
    for name, own in by_name.items():
        if own is not None and not isinstance(own, Mapping):
            raise PRISMError(f"models: {name} needs its settings as `key: value`, has {own!r}")
        if not LABEL.fullmatch(name):
            raise PRISMError(f"models: {name!r} cannot name a folder; use letters, digits, blanks and . , = - _ ( )")
    for control in controls:
        control_settings(control)
        control_features(control)
    if cold_items is not None and not (isinstance(cold_items, (int, float)) and 0 < cold_items < 1):
        raise PRISMError(f"cold_items: {cold_items!r} is not allowed; must be a number between 0 and 1")
    plan = Plan(
        {name: dict(own or {}) for name, own in by_name.items()},
        list(datasets),
        list(seeds),
        list(controls),
        dict(settings or {}),
        baseline or next(iter(by_name)),
        cold_items,
    )
    jobs = plan.jobs()
    for job in jobs:
        check_valid_metric(job.settings)
    labels = {job.label for job in jobs}
    if plan.baseline not in labels:
        raise PRISMError(f"baseline {plan.baseline!r} is not compared{suggest(plan.baseline, labels)}")
    return plan
