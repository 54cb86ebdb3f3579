"""Freed blocks stay with a process that trains."""

import os
import subprocess
import sys

import pytest
from recbole.utils import get_trainer

from recbole_prism.training import memory

FAULTS = """
import resource, sys
import torch
from recbole_prism.training.memory import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory()
def use():
    torch.zeros(8, 1 << 20)  # 32 MiB and more by default are mapped anew each time
    torch.zeros(64, 1 << 20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment) -> tuple[bool, int]:
    """Whether memory is kept in a new process, and the pages it gets in using 288 MiB five times."""
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return answer[0] == "True", int(answer[1])


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_blocks_that_were_freed_are_used_again():
    kept, few = faults()
    left, many = faults(MALLOC_TRIM_THRESHOLD_="131072")  # somebody has other wishes
    assert (kept, left) == (True, False)
    assert few < many / 10


BOUND = """
import torch
from recbole_prism.training import memory
memory.HELD = 100 << 20
weight = torch.nn.Parameter(torch.zeros(1))
weight.grad = torch.zeros(1)
optimizer = torch.optim.Adam([weight])
memory.keep_freed_memory(optimizer)
def use(blocks):
    some = [torch.ones(1 << 18) for _ in range(blocks)]
    pin = torch.ones(1 << 18)  # lies behind them, and lives on
    before = memory.resident()
    del some
    optimizer.step()
    return pin, (before - memory.resident()) >> 20
print(use(50)[1], use(200)[1])
"""


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_freed_is_given_back_when_it_has_become_too_much():
    answer = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True).stdout
    little, much = map(int, answer.split())  # MiB given back by a step, of 50 and of 200 that were freed
    assert little < 10 and much > 150


def test_trainers_set_the_bound(build):
    config, model, _ = build("PRISM_SASRec", training_mode="packed")
    trainer = get_trainer(config["MODEL_TYPE"], "PRISM_SASRec")(config, model)
    hooks = trainer.optimizer._optimizer_step_post_hooks.values()
    assert any(isinstance(hook, memory.Bound) for hook in hooks) == memory.keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
