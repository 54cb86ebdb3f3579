"""Training steps in which a GPU never waits for the host, nor the host for the GPU.

RecBole reads every loss off the GPU and looks whether it is a number, step by step (trainer/trainer.py:254-262). Here
both happen once an epoch, with the same sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

ASYNCHRONOUS = {"cuda"}  # kinds of devices that work while the host goes on


class Deferred(Tensor):
    """A loss whose ``item()`` stays where it is, in float64, in which RecBole adds losses up."""

    def item(self) -> Tensor:
        return self.detach().as_subclass(Tensor).double()


class AsynchronousMixin:
    """In front of RecBole's Trainer; does nothing where the device is the host."""

    _is_nan: Tensor | None = None

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self.device.type not in ASYNCHRONOUS:
            return super()._train_epoch(train_data, epoch_idx, loss_func=loss_func, show_progress=show_progress)
        loss_func, self._is_nan = loss_func or self.model.calculate_loss, torch.zeros((), device=self.device).bool()

        def deferred(interaction):
            losses = loss_func(interaction)
            if isinstance(losses, tuple):
                return tuple(loss.as_subclass(Deferred) for loss in losses)
            return losses.as_subclass(Deferred)

        with bfloat16(self.device.type, self.enable_amp and not self.enable_scaler):
            sums = super()._train_epoch(train_data, epoch_idx, loss_func=deferred, show_progress=show_progress)
        if bool(self._is_nan):
            raise ValueError("Training loss is nan")
        return tuple(map(float, sums)) if isinstance(sums, tuple) else float(sums)

    def _check_nan(self, loss) -> None:
        if isinstance(loss, Deferred):
            self._is_nan = self._is_nan | loss.detach().as_subclass(Tensor).isnan()
        else:
            super()._check_nan(loss)


@contextlib.contextmanager
def bfloat16(kind: str, wanted: bool) -> Iterator[None]:
    """Autocast means bfloat16, which needs no scaling of gradients; ``enable_scaler: True`` keeps float16 on a GPU."""
    before = torch.get_autocast_dtype(kind)
    if wanted and (kind != "cuda" or torch.cuda.is_bf16_supported()):
        torch.set_autocast_dtype(kind, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_dtype(kind, before)
