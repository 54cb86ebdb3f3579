"""Ctrl-C ends what a comparison has started."""

import pytest

from recbole_prism.compare import runner
from recbole_prism.compare.plan import make_plan


def test_an_interrupt_ends_the_processes_that_run(monkeypatch, tmp_path):
    ended = []

    class Process:
        def __init__(self, *_, **__):
            pass

        def poll(self):
            return None

        def terminate(self):
            ended.append("told")

        def wait(self):
            ended.append("waited for")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.subprocess, "Popen", Process)
    monkeypatch.setattr(runner.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run_jobs(make_plan(["Pop", "BPR"], ["d"], 1).jobs(), tmp_path, at_once=2, report=lambda *_: None)
    assert ended == ["told", "told", "waited for", "waited for"]
