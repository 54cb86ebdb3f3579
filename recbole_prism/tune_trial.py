"""One trial: a training run of RecBole whose validation score is reported epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from recbole_prism.errors import PRISMError
from recbole_prism.features import write_atomically

if TYPE_CHECKING:
    from optuna import Study, Trial


class TrialFailed(Exception):
    """One trial could not be finished; the others go on."""


def bigger_is_better(model: str, dataset: str, settings: dict) -> bool:
    """Of the validation metric. Raises PRISMError for keys and values that no trial could use."""
    return make_config(model, dataset, settings)["valid_metric_bigger"]


def make_config(model: str, dataset: str, settings: dict):
    """RecBole's Config of one trial, quietly."""
    from recbole_prism.recommend.checkpoint import own_command_line, quiet
    from recbole_prism.register import register

    register()
    from recbole.config import Config

    with own_command_line(), quiet():
        return Config(model=model, dataset=dataset, config_dict=dict(settings))


def run_trial(study: Study, trial: Trial, model: str, dataset: str, settings: dict, folder: Path) -> float:
    """Best validation score of one training run, as RecBole's ``objective_function`` makes it, without its test.

    ``folder``: gets ``settings.yaml``, which ``run_recbole_prism.py --config_files`` trains again, ``epochs.csv`` with
    the score of every epoch, and at the end ``result.json``. Raises optuna.TrialPruned, TrialFailed, or PRISMError if
    not a single trial could be finished so far.
    """
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    told = yaml.safe_dump({"model": model, "dataset": dataset, **settings}, sort_keys=False)
    write_atomically(folder / "settings.yaml", told.encode())
    try:
        score = train_trial(trial, model, dataset, settings, folder / "epochs.csv")
        end(folder, score=score, valid=trial.user_attrs["valid"])
        return score
    except optuna.TrialPruned:
        end(folder, stopped="the pruner saw no hope")
        raise
    except Exception as error:
        kind = "" if isinstance(error, PRISMError) else f"{type(error).__name__}: "
        message = " ".join(f"{kind}{error}".split())
        trial.set_user_attr("error", message)
        end(folder, error=message)
        finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if not finished:
            raise PRISMError(f"the first trial failed: {message}") from error
        raise TrialFailed(message) from error


def end(folder: Path, **result) -> None:
    """Say how a trial ended."""
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())


def train_trial(trial: Trial, model: str, dataset: str, settings: dict, epochs: Path | None = None) -> float:
    """Best validation score; each epoch is reported to the trial, and to the file ``epochs``."""
    import optuna

    if epochs is not None:
        epochs.write_text("epoch,score\n")

    def report(epoch: int, score: float) -> None:
        if epochs is not None:
            with open(epochs, "a", encoding="utf-8") as file:
                file.write(f"{epoch},{score:.6f}\n")
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    score, result = train(model, dataset, settings, report)
    trial.set_user_attr("valid", {name: float(value) for name, value in result.items()})
    return score


def train(
    model_name: str, dataset: str, settings: dict, report: Callable[[int, float], None] | None = None
) -> tuple[float, dict]:
    """Best validation score and metrics of one training run; ``report`` gets each epoch and its score.

    Raises PRISMError if there is no score.
    """
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_prism.recommend.checkpoint import own_command_line, quiet

    with own_command_line(), quiet():
        config = make_config(model_name, dataset, settings)
        sign = 1 if config["valid_metric_bigger"] else -1
        init_seed(config["seed"], config["reproducibility"])
        loaders = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        score, result = trainer.fit(
            loaders[0], loaders[1], verbose=False, saved=False, show_progress=False, callback_fn=report
        )
    if sign * score == float("-inf") or result is None:
        raise PRISMError("no validation score; tune needs a validation part and eval_step of at least 1")
    return float(score), result
