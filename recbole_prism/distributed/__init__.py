"""Several processes on one machine or more: RecBole's ``run(..., nproc=2)``, our command line, and torchrun.

RecBole spawns ``run_recboles`` in children that never imported us, hard-codes NCCL and CUDA
(config/configurator.py:496-511), averages gradients of unequal shares and metrics of padded ones. Here every step has
the gradients, and every evaluation the metrics, of one process that does it all.

    processes   which process of how many this is
    meeting     how they find each other, which device and backend
    launch      ``--nproc``: starts the processes of one machine and ends them together
    failures    what ends one process ends all of them, with its error
    agreement   versions, settings, data and features must be the same everywhere
    sharding    who trains and who evaluates what
    trainers    the hooks into RecBole's Trainer, loaders and collector
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

from recbole_prism.distributed import processes

_recbole_run_recboles = None


def run_recboles(local_rank: int, *args) -> None:
    """RecBole's ``run_recboles``; unpickling this one in a spawned child imports, and so registers, our models.

    Raises what the process that failed first raised, in every process.
    """
    from recbole_prism.register import register

    register()
    from recbole_prism.distributed import failures, meeting
    from recbole_prism.report.record import watched
    from recbole_prism.run import mendable_errors, recorded_trainers, with_summary

    try:
        model, dataset = args[:2]
        with recorded_trainers() as trainers, _same_data(), mendable_errors(dataset), watched() as record:
            queue = args[-1].get("queue")
            if queue is not None:
                watching = record, model, dataset
                args[-1]["queue"] = _Queue(queue, lambda result: with_summary(result, trainers[-1], *watching))
            _recbole_run_recboles(local_rank, *args)
    except BaseException as error:
        raise failures.explain(error) from error
    meeting.leave()


def take_part(
    place: processes.Place, model: str, dataset: str, config_files: list[str], config_dict: dict
) -> dict | None:
    """This process's part of a run that started elsewhere: RecBole's result in the first process, None in others."""
    own = {"world_size": place.world_size, "nproc": place.nproc, "ip": place.ip, "port": place.port}
    own["offset"] = place.rank - place.local_rank
    results = _Results()
    run_recboles(place.local_rank, model, dataset, config_files, {"config_dict": config_dict | own, "queue": results})
    return results[0] if results else None


class _Results(list):
    """A queue within one process."""

    put = list.append


class _Queue:
    """RecBole's queue of results, which the first process of all puts one into, with summary, page and figures."""

    def __init__(self, queue, complete) -> None:
        self.queue, self.complete = queue, complete

    def put(self, result: dict) -> None:
        if processes.is_first():
            self.queue.put(self.complete(result))


@contextlib.contextmanager
def _same_data() -> Iterator[None]:
    """While in force, RecBole's loaders are compared over all processes before a model is built on them."""
    from recbole.quick_start import quick_start

    from recbole_prism.distributed import agreement

    prepare = quick_start.data_preparation

    def data_preparation(config, dataset):
        loaders = prepare(config, dataset)
        agreement.check_data(loaders)
        return loaders

    quick_start.data_preparation = data_preparation
    try:
        yield
    finally:
        quick_start.data_preparation = prepare


def hook(quick_start: types.ModuleType) -> None:
    """Let ``recbole.quick_start.run`` spawn our ``run_recboles``, and RecBole's trainers work together."""
    global _recbole_run_recboles
    from recbole_prism.distributed import meeting, trainers

    _recbole_run_recboles = quick_start.run_recboles
    quick_start.run_recboles = run_recboles
    meeting.hook(quick_start)
    trainers.hook()
