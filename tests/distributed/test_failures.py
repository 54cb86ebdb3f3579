"""What ends one process ends all, with one clear line; what differs between processes is found before training."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import pytest
import torch

from recbole_prism.distributed import failures, meeting, processes
from recbole_prism.errors import PRISMError
from tests.dataset_made import write_dataset
from tests.distributed.together import run_together


def whole_run(settings: dict, change) -> None:
    """What ``--nproc`` runs in each process; ``change(settings)`` is made in the second one."""
    from recbole_prism.distributed import run_recboles

    logging.disable()
    if settings["local_rank"] == 1:
        change(settings)
    run_recboles(settings["local_rank"], "PRISM_SASRec", "tiny", None, {"config_dict": settings})


def fewer_items(settings: dict) -> None:
    settings["data_path"] += "-of-another-machine"


def other_version(settings: dict) -> None:
    from recbole_prism.distributed import agreement

    agreement.__version__ = "0.0.9"


def other_setting(settings: dict) -> None:
    settings["learning_rate"] = 0.5


def failing_step(settings: dict) -> None:
    from recbole_prism.training import packed

    def fail(*args, **kwargs):
        raise ValueError("boom")

    packed.packed_loss = fail


def falling_silent(settings: dict) -> None:
    """As a machine that is cut off: no connection breaks, and nothing is heard any more."""
    from recbole_prism.distributed import processes
    from recbole_prism.training import packed

    def hang(*args, **kwargs):
        processes.GROUP.watch.stop()
        time.sleep(15)

    packed.packed_loss = hang


def other_features(settings: dict) -> None:
    settings["modalities"] = {"image": "tiny.text.safetensors", "text": "tiny.text.safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_items, r"data differ: .* is .* for rank 0 \(.*\) and .* for rank 1 \(.*\); all processes need the same"),
        (other_version, r"versions differ: recbole-prism is .* for rank 0 .* and 0.0.9 for rank 1"),
        (other_setting, r"settings differ: learning_rate is 0.001 for rank 0 .* and 0.5 for rank 1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_processes_that_differ_all_say_in_what(settings, tmp_path, change, message):
    write_dataset(tmp_path / "dataset-of-another-machine", seed=3)
    results = run_together(whole_run, settings, tmp_path, change)
    for error in results:
        assert isinstance(error, PRISMError), results
        with pytest.raises(PRISMError, match=message):
            raise error
    assert str(results[0]) == str(results[1])


def test_an_error_in_one_process_ends_all_within_seconds(settings, tmp_path):
    start = time.monotonic()
    first, second = run_together(whole_run, settings, tmp_path, failing_step)
    assert time.monotonic() - start < 40
    assert isinstance(second, ValueError) and str(second) == "boom"
    assert "rank 1" in str(first) and "ValueError: boom" in str(first)  # raised, or said by the watch that ended it


def test_a_process_that_falls_silent_is_given_up(settings, tmp_path):
    last_words, _ = run_together(short_of_patience, settings, tmp_path, falling_silent)
    assert "error: rank 1 has given no sign of life for 6 seconds" in last_words


def short_of_patience(settings: dict, change) -> None:
    from recbole_prism.distributed import failures

    failures.SILENCE = 6.0
    whole_run(settings, change)


def test_the_first_process_leaves_last(monkeypatch):
    """The store ends with it."""
    told = []

    class Store:
        def set(self, key, value):
            told.append(key)

        def wait(self, keys, patience):
            told.append(keys)

    group = processes.Group(SimpleNamespace(rank=0, world_size=3), Store(), SimpleNamespace(stop=lambda: None))
    monkeypatch.setattr(processes, "GROUP", group)
    meeting.leave()
    assert told == ["done0", ["done0", "done1", "done2"]]


def test_what_was_told_first_stays():
    store = torch.distributed.HashStore()
    assert [failures.publish(store, text) for text in ("first", "second")] == ["first", "first"]
    assert failures.first_failure(store) == "first"


def test_a_process_that_is_done_may_be_silent():
    class Store(dict):
        def clone(self):
            return self

        def check(self, keys):
            return all(key in self for key in keys)

    store = Store()
    watch = failures.Watch(SimpleNamespace(world_size=2, rank=0), store)
    silent = []
    for done in ("done0", "done1", None):
        silent.append(watch.silent(-1))
        store[done] = b""
    assert silent == [0, 1, None]
