"""Train and test one model: what ``run_recbole_prism.py`` does."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_prism.command import guarded, model_and_dataset, recbole_models
from recbole_prism.distributed.failures import is_recorded
from recbole_prism.errors import PRISMError, suggest
from recbole_prism.plugins import import_plugins

DESCRIPTION = """Train and test a model as RecBole's run_recbole.py does.

Any RecBole or PRISM key may follow as --key=value, e.g. --epochs=10 --fusion_scope=sequence --data_path=dataset.
Model and dataset may also stand in a yaml file of --config_files, as in the best.yaml of `recbole-prism tune`.
Keys of PRISM: properties/model/PRISM.yaml; of RecBole: its documentation."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments, rest = build_parser().parse_known_args(argv)
    return guarded(lambda: _run(arguments, rest, argv), debug=arguments.debug, silent=is_recorded())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", "-m", help="a PRISM or RecBole model, or several: A,B (PRISM_SASRec)")
    parser.add_argument("--dataset", "-d", help="a dataset below data_path (ml-100k)")
    parser.add_argument("--config_files", default="", help="yaml files, separated by spaces, as in RecBole")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine (1)")
    parser.add_argument("--ip", default="localhost", help="address of the first machine (localhost)")
    parser.add_argument("--port", type=int, default=5678, help="port on the first machine (5678)")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines (nproc)")
    parser.add_argument("--group_offset", type=int, default=0, help="rank of this machine's first process (0)")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _run(arguments: argparse.Namespace, rest: list[str], argv: list[str] | None) -> int:
    from recbole_prism.datasets import check_dataset
    from recbole_prism.distributed import launch, processes

    import_plugins()
    unusable = [a for a in rest if not a.startswith("--") or a.count("=") != 1]
    if unusable:
        raise PRISMError(f"{unusable[0]}: not understood; keys are set as --key=value")
    files = [Path(name) for name in arguments.config_files.split()]
    settings = _settings(files, rest)
    names, dataset = model_and_dataset(arguments, settings)
    models = names.split(",")
    for model in models:
        check_model(model)
    if unread := check_read(models, settings, [option[2:].split("=")[0] for option in rest]):
        print(f"warning: {', '.join(unread)}: no effect on {names}, only on PRISM models", file=sys.stderr)
    check_dataset(dataset, str(settings.get("data_path", "dataset/")))
    if processes.from_environment() is None and (arguments.nproc > 1 or arguments.world_size > 0):
        launch.launch(
            launch.command_line(argv),
            nproc=arguments.nproc,
            world_size=max(arguments.world_size, arguments.nproc),
            ip=arguments.ip,
            port=arguments.port,
            group_offset=arguments.group_offset,
        )
        return 0

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")  # pandas 3, which we exclude
    from recbole_prism import config
    from recbole_prism.register import MODELS, register

    config.STRICT_COMMAND_LINE = True
    register()
    results = []
    for model in models:
        _close_log()
        result = run(model, dataset, list(map(str, files)), {} if model in MODELS else plain_defaults(model, settings))
        if result is not None:  # None in all processes but the first
            print(summary_text(model, dataset, result))
            results.append(result)
    if len(results) > 1:
        print(comparison_text(models, dataset, results))
    return 0


def _close_log() -> None:
    """Let RecBole open a log of its own for the next model: logging ignores a second set-up."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h) in (logging.FileHandler, logging.StreamHandler)]:
        root.removeHandler(handler)
        handler.close()


def check_model(name: str) -> None:
    """Raise PRISMError with the nearest names if neither RecBole nor we have this model."""
    from recbole_prism.models.table import MODELS, refuse

    available = [*MODELS, *recbole_models()]
    if name not in available:
        refuse(name)
        raise PRISMError(f"model {name!r} is unknown{suggest(name, available)}; see `recbole-prism models`")


def check_read(models: list[str], settings: dict, given: Iterable[str]) -> list[str]:
    """Keys of ours, of those given, that no model reads. Raises PRISMError for one that packed training would."""
    from recbole_prism.config import model_yamls, read_yaml
    from recbole_prism.models.table import MODELS
    from recbole_prism.training.modes import KEYS, PLAIN

    if any(model in MODELS for model in models):
        return []
    plain = any(model in PLAIN for model in models)
    for key in given:
        if key in KEYS and plain and not settings.get("training_mode"):
            raise PRISMError(f"{key}: would have no effect on {', '.join(models)}; set training_mode: packed too")
    ours = read_yaml(model_yamls("PRISM")[0]).keys() - {"report", "figures", "resume"}
    return [key for key in given if key in ours and not (plain and key in (*KEYS, "training_mode"))]


def _settings(files: list[Path], rest: list[str]) -> dict:
    """Keys set by yaml files and on the command line, the latter as text."""
    from recbole_prism.config import read_yaml

    settings: dict = {}
    for file in files:
        settings.update(read_yaml(file))
    settings.update(argument[2:].split("=") for argument in rest)
    return settings


def plain_defaults(model: str, settings: dict) -> dict:
    """RecBole's sequential models with cross-entropy refuse RecBole's default of train_neg_sample_args."""
    import yaml

    if recbole_models()[model] != "sequential" or "train_neg_sample_args" in settings:
        return {}
    import recbole

    file = Path(recbole.__file__).parent / "properties" / "model" / f"{model}.yaml"
    own = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    loss = settings.get("loss_type", (own or {}).get("loss_type"))
    return {"train_neg_sample_args": None} if loss == "CE" else {}


def run(model: str, dataset: str, config_files: list[str], config_dict: dict) -> dict | None:
    """RecBole's ``run`` and a summary: its result with ``summary`` added. Needs ``register()``.

    Where torchrun or ``--nproc`` started this process it takes its part; all but the first get None.
    """
    from recbole.quick_start import quick_start

    from recbole_prism import distributed
    from recbole_prism.report.record import watched

    place = distributed.processes.from_environment()
    if place is not None:
        return distributed.take_part(place, model, dataset, config_files, config_dict)
    with recorded_trainers() as trainers, mendable_errors(dataset), watched() as record:
        result = quick_start.run(model, dataset, config_files, config_dict)
    return with_summary(result, trainers[-1], record, model, dataset)


@contextmanager
def mendable_errors(dataset: str) -> Iterator[None]:
    """Errors of RecBole that a user can mend, as PRISMError."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("Some feat is empty"):
            raise PRISMError(
                f"dataset {dataset!r}: no interactions are left after filtering; loosen val_interval, "
                "user_inter_num_interval or item_inter_num_interval"
            ) from error
        raise


@contextmanager
def recorded_trainers() -> Iterator[list]:
    """While in force, every trainer that RecBole builds records its epochs and can go on from a checkpoint of its own,
    and is appended to the list."""
    from recbole.quick_start import quick_start
    from recbole.trainer import Trainer

    from recbole_prism.training.resuming import ResumableMixin
    from recbole_prism.training.trainer import RecordingMixin

    trainers: list = []
    get_trainer = quick_start.get_trainer

    def get_recording_trainer(model_type, model_name):
        make_trainer = get_trainer(model_type, model_name)

        def make_recording_trainer(config, model):
            trainer = make_trainer(config, model)
            if not isinstance(trainer, RecordingMixin):
                resumes = isinstance(trainer, Trainer)  # those of decision trees have no epochs
                if config["resume"] and not resumes:
                    raise PRISMError(f"resume: {model_name} cannot go on from a checkpoint; leave it out")
                mixins = (RecordingMixin, ResumableMixin) if resumes else (RecordingMixin,)
                trainer.__class__ = type(type(trainer).__name__, (*mixins, type(trainer)), {})
                trainer.start_record()
                if resumes:
                    trainer.start_resumable()
            trainers.append(trainer)
            return trainer

        return make_recording_trainer

    quick_start.get_trainer = get_recording_trainer
    try:
        yield trainers
    finally:
        quick_start.get_trainer = get_trainer


def with_summary(result: dict, trainer, record, model: str, dataset: str) -> dict:
    """RecBole's result with ``summary`` added, which tells of the page and the figures that are written here."""
    from recbole_prism.report.run_page import write_report

    result = {**result, "summary": summarize(trainer)}
    result["summary"] |= write_report(record, trainer, model, dataset, result)
    return result


def summarize(trainer) -> dict:
    """Seconds per epoch, mean weight of each expert over test users, and where checkpoint and log are."""
    seconds = getattr(trainer, "epoch_seconds", [])
    logs = [h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    return {
        "epochs": len(seconds),
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
        "expert_weights": getattr(trainer, "mean_expert_weights", {}),
        "checkpoint": trainer.saved_model_file,
        "log": logs[-1] if logs else None,
    }


def summary_text(model: str, dataset: str, result: dict) -> str:
    """The last lines a user sees."""
    summary = result["summary"]
    lines = [f"\n{model} on {dataset}"]
    for title, metrics in (("validation", result["best_valid_result"]), ("test", result["test_result"])):
        lines.append(f"  {title:<16}" + "  ".join(f"{name} {value:.4f}" for name, value in (metrics or {}).items()))
    if summary["expert_weights"]:
        weights = "  ".join(f"{name} {weight:.3f}" for name, weight in summary["expert_weights"].items())
        lines.append(f"  {'expert weights':<16}{weights}")
    if summary["seconds_per_epoch"] is not None:
        lines.append(f"  {'epochs':<16}{summary['epochs']}, {summary['seconds_per_epoch']:.2f} s each")
    lines.append(f"  {'checkpoint':<16}{summary['checkpoint']}")
    lines.append(f"  {'log':<16}{summary['log']}")
    lines += [f"  {written:<16}{summary[written]}" for written in ("report", "figures") if written in summary]
    return "\n".join(lines)


def comparison_text(models: list[str], dataset: str, results: list[dict]) -> str:
    """Test metrics of several models side by side. One run each says little: `recbole-prism compare` takes seeds.

    Where the split has no test part, metrics of the validation part.
    """
    width = max(map(len, models))
    part = "test" if all(result["test_result"] for result in results) else "best_valid"
    tables = [result[f"{part}_result"] or {} for result in results]
    names = list(tables[0])
    lines = [
        f"\n{'test' if part == 'test' else 'validation'} on {dataset}",
        " ".join([f"  {'':<{width}}", *(f"{name:>10}" for name in names), "  s / epoch"]),
    ]
    for model, result, table in zip(models, results, tables, strict=True):
        values = [f"{table[name]:>10.4f}" for name in names]
        seconds = result["summary"]["seconds_per_epoch"]
        lines.append(" ".join([f"  {model:<{width}}", *values, f"{seconds or 0:>11.2f}"]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
