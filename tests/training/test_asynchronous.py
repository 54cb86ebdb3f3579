"""A step makes no host wait for a device: no operation whose result's size or value the host must know."""

from __future__ import annotations

import pytest
import torch
from recbole.utils import get_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_prism.training import asynchronous
from recbole_prism.training.losses import log_of_count
from recbole_prism.training.trainer import PackedTrainer

WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal.default", "is_nonzero", "item")


class Watching(TorchDispatchMode):
    """Notes operations for which a GPU would have to be done with all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        indices = args[1] if name.startswith(("aten.index.", "aten.index_put")) else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if any(word in name for word in WAITING) or by_mask:
            self.waited.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def steps(build, monkeypatch):
    """steps(model, **overrides) -> (what an epoch's steps waited for, sum of losses); the CPU is taken for a GPU."""

    def run(name: str, *, pretend: bool = True, **overrides):
        monkeypatch.setattr(asynchronous, "ASYNCHRONOUS", {"cuda", "cpu"} if pretend else {"cuda"})
        for module in ("packing", "losses"):
            monkeypatch.setattr(f"recbole_prism.training.{module}.ASYNCHRONOUS", asynchronous.ASYNCHRONOUS)
        # a GPU's recurrence in both cases: a CPU's sums are those of another order (test_recurrence.py compares them)
        monkeypatch.setattr("recbole_prism.training.recurrence.ASYNCHRONOUS", {"cuda", "cpu"})
        config, model, loaders = build(name, training_mode="packed", train_batch_size=8, **overrides)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        watching, calls = Watching(), []
        step, loss = trainer.optimizer.step, trainer._packed_loss(loaders[0])

        def watched(batch):
            calls.append(watching.__enter__())
            return loss(batch)

        def last(*args, **kwargs):
            step(*args, **kwargs)
            watching.__exit__(None, None, None)

        trainer.optimizer.step = last
        sums = trainer._train_epoch(loaders[0], 0, loss_func=watched)
        assert len(calls) > 1
        return watching.waited, sums, trainer

    return run


CASES = [
    ("PRISM_SASRec", {}),
    ("PRISM_GRU4Rec", {}),
    ("SASRec", {}),
    ("PRISM_SASRec", {"loss_type": "sampled", "num_negatives": 8}),
    ("PRISM_SASRec", {"enable_amp": True, "clip_grad_norm": {"max_norm": 1.0}}),
]


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=lambda value: str(value))
def test_no_step_waits(steps, name, overrides):
    log_of_count(8)  # kept for all steps
    waited, sums, trainer = steps(name, **overrides)
    assert waited == []
    parts = sums if isinstance(sums, tuple) else (sums,)
    assert isinstance(trainer, PackedTrainer) and all(isinstance(part, float) for part in parts)


def test_the_watch_sees_what_waits(steps):
    waited, _, _ = steps("PRISM_SASRec", pretend=False)
    assert any("unique" in name for name in waited) and any("_local_scalar_dense" in name for name in waited)


@pytest.mark.parametrize("name", ["PRISM_SASRec", "PRISM_GRU4Rec"])
def test_losses_and_weights_are_those_of_waiting_steps(steps, name):
    results = [steps(name, pretend=pretend) for pretend in (False, True)]
    assert results[0][1] == results[1][1]
    for a, b in zip(*(result[2].model.parameters() for result in results), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_no_number_ends_the_epoch(steps, monkeypatch):
    from recbole_prism.training import packed

    monkeypatch.setattr(
        packed, "packed_loss", lambda model, *args, **kwargs: model.item_embedding.weight.sum() * torch.nan
    )
    with pytest.raises(ValueError, match="Training loss is nan"):
        steps("SASRec")
