"""``recbole-prism tune``: Optuna, pruning on the validation metric, resumable, in several processes.

The space is a hyper file of RecBole's format; the test part is never looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_prism.command import model_and_dataset
from recbole_prism.errors import PRISMError
from recbole_prism.tune_best import best_trial, confirm, finished_trials, study_text, write_best
from recbole_prism.tune_keys import check_keys, default_space, effective, fusion_in
from recbole_prism.tune_space import Parameter, find_space, read_space

if TYPE_CHECKING:
    from optuna import Study, Trial

HEARTBEAT = 30  # seconds; a trial that was silent for four of them belonged to a process that died


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", help="a PRISM or RecBole model (PRISM_SASRec)")
    parser.add_argument("--dataset", "-d", help="a dataset below data_path (ml-100k)")
    parser.add_argument("--space", help="a hyper file of RecBole's format, or one of ours (prism, or the model's)")
    parser.add_argument("--trials", type=int, default=50, help="how many in all, those of earlier runs included (50)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side (1)")
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const="local", help="on a Ray cluster, or one made here")
    parser.add_argument("--output", "-o", help="folder of study.db and best.yaml (tuned/MODEL-DATASET)")
    parser.add_argument("--sampler", choices=["tpe", "random"], default="tpe", help="how values are drawn (tpe)")
    parser.add_argument("--pruner", choices=["median", "none"], default="median", help="stop weak trials (median)")
    parser.add_argument("--startup", type=int, default=5, help="whole trials before the first is stopped (5)")
    parser.add_argument("--warmup", type=int, default=20, help="epochs before a trial may be stopped (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler; trials train with RecBole's seed (0)")
    parser.add_argument("--confirm", type=int, default=0, metavar="N", help="train the N best on more seeds (0)")
    parser.add_argument("--seeds", type=int, default=5, help="of each of these, that of the search among them (5)")
    parser.add_argument("--config-files", nargs="+", metavar="YAML", default=[], help="settings of every trial")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="more of them: --set epochs=50")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)


def main(arguments: argparse.Namespace) -> int:
    """Run trials until there are enough, then print and write the best."""
    warnings.filterwarnings("ignore", module=r"recbole_prism\.tune|optuna\.")  # heartbeats are experimental in Optuna
    try:
        import optuna
    except ImportError as error:
        raise PRISMError("tune needs optuna; pip install optuna") from error
    from recbole_prism.run import check_model

    for name, least in {"trials": 1, "jobs": 1, "startup": 0, "warmup": 0, "confirm": 0, "seeds": 1}.items():
        if getattr(arguments, name) < least:
            raise PRISMError(f"--{name}: {getattr(arguments, name)} is not allowed; must be at least {least}")
    settings = given_settings(arguments)
    arguments.model, arguments.dataset = model_and_dataset(arguments, settings)
    check_model(arguments.model)
    settings = trial_settings(arguments, settings)
    fusion = fusion_in(arguments.model, arguments.dataset, settings)
    space = read_space(find_space(arguments.space or default_space(arguments.model, fusion)))
    if arguments.space is None:
        space = effective(space, arguments.model, fusion)
    check_keys(arguments.model, settings, space, fusion)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial is told in a line of ours
    folder = Path(arguments.output or Path("tuned") / f"{arguments.model}-{arguments.dataset}")
    arguments.output = str(folder)
    if arguments.ray:
        if arguments.confirm:
            raise PRISMError("--confirm: goes with a search on this machine, not with --ray")
        from recbole_prism.tune_ray import search

        return search(arguments, folder, space, settings)
    study = open_study(arguments, folder, space, settings)
    workers = _start_workers(arguments, folder) if arguments.worker == 0 else []
    progress = Progress(study) if arguments.worker == 0 else None
    try:
        _work(arguments, study, space, settings, progress)
        for process in workers:
            process.wait()
        while arguments.worker == 0 and _awaited(study):
            _work(arguments, study, space, settings, progress)
    finally:
        for process in workers:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if progress:
        progress.show()
        every = {"model": arguments.model, "dataset": arguments.dataset, **settings}
        write_best(best_trial(study, folder, {}), study, folder, space, every)  # there, even if a run below fails
        confirmed = confirm(arguments, study, space, settings)
        best = best_trial(study, folder, confirmed)
        write_best(best, study, folder, space, every)
        print(study_text(best, study, folder, space))
    return 0


def given_settings(arguments: argparse.Namespace) -> dict:
    """Files, then ``--set``. Raises PRISMError for what cannot be read."""
    from recbole_prism.config import read_settings, read_yaml

    settings: dict = {}
    for file in arguments.config_files:
        settings.update(read_yaml(Path(file)))
    return {**settings, **read_settings(arguments.set)}


def trial_settings(arguments: argparse.Namespace, given: dict) -> dict:
    """What every trial shares: what is given, and what RecBole's own models must be given."""
    from recbole_prism.datasets import check_dataset
    from recbole_prism.models.table import MODELS
    from recbole_prism.run import plain_defaults

    settings = {key: value for key, value in given.items() if key not in ("model", "dataset")}
    check_dataset(arguments.dataset, str(settings.get("data_path", "dataset/")))
    return settings if arguments.model in MODELS else {**plain_defaults(arguments.model, settings), **settings}


def open_study(arguments, folder: Path, space: list[Parameter], settings: dict) -> Study:
    """The study of the folder, begun or resumed. Raises PRISMError if it was begun with something else."""
    import optuna

    from recbole_prism.compare.data import digests
    from recbole_prism.compare.plan import Job, defaults_of
    from recbole_prism.datasets import dataset_settings
    from recbole_prism.tune_trial import bigger_is_better

    what = {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "settings": {**dataset_settings(arguments.dataset, str(settings.get("data_path", "dataset/"))), **settings},
        "defaults": defaults_of(arguments.model),
        "space": [[p.name, p.kind, list(p.values)] for p in space],
        "data": digests(Job(arguments.dataset, arguments.model, arguments.model, 0, settings)),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
    tried = {**settings, **{parameter.name: parameter.example() for parameter in space}}
    direction = "maximize" if bigger_is_better(arguments.model, arguments.dataset, tried) else "minimize"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PRISMError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / 'study.db'}",
        engine_kwargs={"connect_args": {"timeout": 60}},
        heartbeat_interval=HEARTBEAT,
        grace_period=4 * HEARTBEAT,
    )
    study = optuna.create_study(
        storage=storage, study_name="tune", direction=direction, load_if_exists=True, pruner=_pruner(arguments)
    )
    begun = study.user_attrs.setdefault("digest", digest)
    study.set_user_attr("digest", begun)
    if begun != digest:
        raise PRISMError(
            f"{folder / 'study.db'}: was begun with another model, dataset, space or settings, or other data; "
            "set them as before, or choose another --output"
        )
    optuna.storages.fail_stale_trials(study)
    # A sampler that is seeded alike in every run and process would draw the same trials again.
    seed = arguments.seed + 1000 * arguments.worker + len(study.trials)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[arguments.sampler](seed=seed)
    return study


def _pruner(arguments):
    import optuna

    if arguments.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=arguments.startup, n_warmup_steps=arguments.warmup)


def _start_workers(arguments, folder: Path) -> list[subprocess.Popen]:
    import torch

    from recbole_prism.compare.runner import shared_cores

    command = [sys.executable, "-m", "recbole_prism", "tune", *_same_arguments(arguments), "--output", str(folder)]
    environment = shared_cores(arguments.jobs)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # this process is one of them
    return [
        subprocess.Popen([*command, "--worker", str(worker)], stdout=subprocess.DEVNULL, env=environment)
        for worker in range(1, arguments.jobs)
    ]


def _same_arguments(arguments) -> list[str]:
    words = []
    for name in ("model", "dataset", "space", "trials", "sampler", "pruner", "startup", "warmup", "seed"):
        if getattr(arguments, name) is not None:  # a space that nobody named is found, and cut, by each process
            words += [f"--{name}", str(getattr(arguments, name))]
    for option, values in (("--config-files", arguments.config_files), ("--set", arguments.set)):
        words += [option, *values] if values else []
    return words


class Progress:
    """Prints every trial once, whichever process it was in; not those of earlier commands."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.shown = {trial.number for trial in self._ended()}

    def show(self) -> None:
        for trial in self._ended():
            if trial.number in self.shown:
                continue
            self.shown.add(trial.number)
            value = f"{trial.value:.5f}" if trial.state.name == "COMPLETE" else trial.user_attrs.get("error", "")
            value += f" as trial {trial.user_attrs['as']}" if "as" in trial.user_attrs else ""
            print(f"trial {trial.number:>3} {trial.state.name.lower():<9}{value}", flush=True)

    def _ended(self) -> list:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _work(arguments, study: Study, space: list[Parameter], settings: dict, progress: Progress | None = None) -> None:
    """One trial after another, until there are enough in all processes."""
    from recbole_prism.compare.runner import visible_gpus
    from recbole_prism.tune_trial import TrialFailed, run_trial

    if gpus := visible_gpus():
        settings = {"gpu_id": gpus[arguments.worker % len(gpus)], **settings}  # RecBole sets CUDA_VISIBLE_DEVICES to it

    def objective(trial: Trial) -> float:
        drawn = {parameter.name: parameter.draw(trial) for parameter in space}
        before = _drawn_before(study, trial)
        if before is not None:
            trial.set_user_attr("as", before.number)
            trial.set_user_attr("valid", before.user_attrs["valid"])
            return before.value
        folder = Path(arguments.output) / "trials" / f"{trial.number:03}"
        return run_trial(study, trial, arguments.model, arguments.dataset, {**settings, **drawn}, folder)

    while _count(study, arguments.trials) < arguments.trials:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        if progress:
            progress.show()


def _drawn_before(study: Study, trial: Trial):
    """A finished trial that drew the same values, if any: this one would end as it did, since all have one seed."""
    return next((each for each in finished_trials(study) if each.params == trial.params), None)


def _awaited(study: Study) -> bool:
    """Give trials under way outside of this command the time in which they end or are known to be dead.

    Whether there were any that did; of a command that is still at work beside this one there may be more.
    """
    import optuna

    def n_running() -> int:
        return sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))

    before, deadline = n_running(), time.monotonic() + 6 * HEARTBEAT
    if before:
        print(f"{before} trials under way elsewhere: waiting, {6 * HEARTBEAT} s at most", flush=True)
    while n_running() and time.monotonic() < deadline:
        time.sleep(HEARTBEAT / 10)
        optuna.storages.fail_stale_trials(study)
    return n_running() < before


def _count(study: Study, trials: int) -> int:
    """Trials that are done or under way; one that died with its process does not count.

    Nor do those that took another's score, up to as many as ``trials``: a space may have no more to draw.
    """
    states = [(trial.state.name, trial.user_attrs) for trial in study.get_trials(deepcopy=False)]
    done = sum(state in ("COMPLETE", "PRUNED", "RUNNING") or "error" in attrs for state, attrs in states)
    return done - min(trials, sum("as" in attrs for _, attrs in states))
