"""``recbole-prism tune --ray``: the same space and the same trials on a Ray cluster, or on one that is started here.

Needs the extra ``[ray]``, and on every machine this package and the dataset at the same path.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from recbole_prism.errors import PRISMError
from recbole_prism.tune_space import Parameter

METRIC = "validation"  # RecBole's valid_metric, whatever it is


def search(arguments, folder: Path, space: list[Parameter], settings: dict) -> int:
    """Run the trials and write ``best.yaml``. Raises PRISMError without Ray, or if no trial could be finished."""
    try:
        import ray
        from ray import tune
        from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule
    except ImportError as error:  # compat's stand-in has no schedulers
        raise PRISMError("--ray needs a current ray; pip install 'recbole-prism[ray]'") from error

    from recbole_prism.tune_trial import bigger_is_better

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    settings = {**settings, "data_path": os.path.abspath(str(settings.get("data_path", "dataset/")))}
    tried = {**settings, **{parameter.name: parameter.example() for parameter in space}}
    mode = "max" if bigger_is_better(arguments.model, arguments.dataset, tried) else "min"
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    here = arguments.ray == "local"
    ray.init(address="local" if here else arguments.ray, include_dashboard=False if here else None, log_to_driver=False)
    try:
        pruned = arguments.pruner == "median"
        scheduler = (
            MedianStoppingRule(time_attr="epoch", grace_period=arguments.warmup, min_samples_required=arguments.startup)
            if pruned
            else FIFOScheduler()
        )
        trial = tune.with_parameters(train, arguments=vars(arguments), space=space, settings=settings)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1, "gpu": 1} if ray.cluster_resources().get("GPU") else {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode=mode,
                num_samples=arguments.trials,
                max_concurrent_trials=arguments.jobs if arguments.jobs > 1 else None,
                search_alg=searcher(arguments, space, mode),
                scheduler=scheduler,
                reuse_actors=True,  # a process that has imported everything takes the next trial
            ),
            run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=0),
        )
        results = tuner.fit()
    finally:
        ray.shutdown()
    settings = {"model": arguments.model, "dataset": arguments.dataset, **settings}
    return report(results, folder, space, settings, mode)


def searcher(arguments, space: list[Parameter], mode: str):
    """Optuna's samplers, which draw as in a search without Ray."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    sampler = samplers[arguments.sampler](seed=arguments.seed)
    return OptunaSearch(space=functools.partial(draw, space), metric=METRIC, mode=mode, sampler=sampler)


def draw(space: list[Parameter], trial) -> None:
    """All values of one trial; Ray sends this function about."""
    for parameter in space:
        parameter.draw(trial)


def train(drawn: dict, arguments: dict, space: list[Parameter], settings: dict) -> None:
    """One trial, in Ray's directory for it, where RecBole's log and tensorboard then are."""
    from ray import tune

    from recbole_prism.tune_trial import train_trial

    if gpu := os.environ.get("CUDA_VISIBLE_DEVICES"):
        settings = {"gpu_id": gpu, **settings}  # what Ray gave this trial; RecBole takes the first otherwise
    drawn = {parameter.name: parameter.recall(drawn[parameter.name]) for parameter in space}
    train_trial(Reported(tune), arguments["model"], arguments["dataset"], {**settings, **drawn})


class Reported:
    """What a trial of Optuna offers to the training, on Ray, whose scheduler stops trials by itself."""

    def __init__(self, tune) -> None:
        self.tune, self.best = tune, {}

    def report(self, score: float, epoch: int) -> None:
        self.tune.report({METRIC: float(score), "epoch": epoch})

    def should_prune(self) -> bool:
        return False

    def set_user_attr(self, name: str, value) -> None:
        """The metrics of the best epoch are in the log."""


def report(results, folder: Path, space: list[Parameter], settings: dict, mode: str) -> int:
    """Print and write the best trial; each trial's best epoch counts."""
    import yaml

    from recbole_prism.features import write_atomically

    finished = [result for result in results if result.metrics and METRIC in result.metrics]
    if not finished:
        first = str(results.errors[0]).strip().splitlines()[-1] if results.errors else "no trial reported a score"
        raise PRISMError(f"{folder}: no trial could be finished: {first}")
    best = results.get_best_result(METRIC, mode, scope="all")
    scores = best.metrics_dataframe[METRIC]
    score = float(scores.max() if mode == "max" else scores.min())
    drawn = {parameter.name: parameter.recall(best.config[parameter.name]) for parameter in space}
    head = f"# best of {len(results)} trials on Ray: validation {score:.6f}\n"
    text = head + yaml.safe_dump({**settings, **drawn}, sort_keys=False)
    write_atomically(folder / "best.yaml", text.encode())
    print(f"\n{len(results)} trials, {len(results.errors)} failed\nbest: validation {score:.5f}, in {best.path}")
    for name, value in drawn.items():
        print(f"  {name}: {value}")
    print(f"written to {folder / 'best.yaml'}")
    return 0
