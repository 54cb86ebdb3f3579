"""Which trial of a search was best, by one seed or by several, and what is said and written of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from recbole_prism.errors import PRISMError
from recbole_prism.tune_space import Parameter

if TYPE_CHECKING:
    from optuna import Study


def confirm(arguments, study: Study, space: list[Parameter], settings: dict) -> dict[int, list[float]]:
    """Validation of the ``--confirm`` best trials on ``--seeds`` seeds, from that of the search on: {number: scores}.

    What is done is kept in the study, so that the same command goes on, also after an error of training, which ends it.
    """
    from recbole_prism.tune_trial import make_config, train

    scores: dict[int, list[float]] = {}
    for trial in _best_first(study)[: arguments.confirm]:
        tried = {**settings, **_drawn(trial, space)}
        first = make_config(arguments.model, arguments.dataset, tried)["seed"]
        scores[trial.number] = [trial.value]
        for seed in range(first + 1, first + arguments.seeds):
            name = f"trial {trial.number} seed {seed}"
            if name not in study.user_attrs:
                study.set_user_attr(name, train(arguments.model, arguments.dataset, {**tried, "seed": seed})[0])
            scores[trial.number].append(study.user_attrs[name])
        values, mean = scores[trial.number], sum(scores[trial.number]) / len(scores[trial.number])
        print(f"trial {trial.number:>3} mean {mean:.5f} of {' '.join(f'{value:.5f}' for value in values)}", flush=True)
    return scores


def best_trial(study: Study, folder: Path, confirmed: dict[int, list[float]]):
    """The trial of the best mean, where some were confirmed, else of the best score.

    Raises PRISMError if none is finished.
    """
    finished = _best_first(study)
    if not finished:
        raise PRISMError(f"{folder}: no trial was finished, so there is no best one")
    if not confirmed:
        return finished[0]
    sign = _sign(study)
    known = [trial for trial in finished if trial.number in confirmed]  # another process may have finished a better one
    return max(known, key=lambda trial: sign * sum(confirmed[trial.number]))


def _best_first(study: Study) -> list:
    """Finished trials, those that took another's score left out."""
    trials = [trial for trial in finished_trials(study) if "as" not in trial.user_attrs]
    return sorted(trials, key=lambda trial: -_sign(study) * trial.value)


def _sign(study: Study) -> int:
    return 1 if study.direction.name == "MAXIMIZE" else -1


def _drawn(trial, space: list[Parameter]) -> dict:
    return {parameter.name: parameter.recall(trial.params[parameter.name]) for parameter in space}


def write_best(best, study: Study, folder: Path, space: list[Parameter], settings: dict) -> None:
    """``best.yaml``: model, dataset, the settings of all trials and what the best drew, for ``--config_files``."""
    from recbole_prism.features import write_atomically

    head = f"# trial {best.number} of {len(study.trials)}: validation {best.value:.6f}\n"
    values = {**settings, **_drawn(best, space)}
    write_atomically(folder / "best.yaml", (head + yaml.safe_dump(values, sort_keys=False)).encode())


def finished_trials(study: Study) -> list:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def study_text(best, study: Study, folder: Path, space: list[Parameter]) -> str:
    """The best trial, and how many there were of which kind."""
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    lines = [f"\n{len(states)} trials: {counts}", f"best: trial {best.number}, validation {best.value:.5f}"]
    lines += [f"  {name}: {value}" for name, value in _drawn(best, space).items()]
    lines += ["  " + "  ".join(f"{name} {value:.4f}" for name, value in best.user_attrs["valid"].items())]
    return "\n".join([*lines, f"written to {folder / 'best.yaml'}"])
