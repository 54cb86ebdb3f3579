"""An exponential moving average of the weights, validated, saved and tested in the place of the last weights."""

from __future__ import annotations

import torch
from torch import Tensor


class EMAMixin:
    """In front of RecBole's Trainer; does nothing unless ``ema_decay`` is set.

    While an epoch trains the model holds its current weights, at any other time their average: so validation, early
    stopping, checkpoints and test are of the average. A checkpoint carries the current weights too, to go on from.
    """

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.ema_decay = config["ema_decay"]
        self._ema_steps = 0
        self._average: list[Tensor] | None = None
        self._current: list[Tensor] | None = None  # set while the model holds the average
        if self.ema_decay:
            known = getattr(model, "other_parameter_name", [])
            model.other_parameter_name = [*dict.fromkeys([*known, "ema"])]
            model.ema = None
            self.optimizer.register_step_post_hook(lambda *_: self._update_average())

    def _train_epoch(self, *args, **kwargs):
        if not self.ema_decay:
            return super()._train_epoch(*args, **kwargs)
        weights = [parameter.detach() for parameter in self.model.parameters()]
        if self._current is not None:
            torch._foreach_copy_(weights, self._current)
            self._current = None
        if self._average is None:
            self._average = [weight.clone() for weight in weights]
        losses = super()._train_epoch(*args, **kwargs)
        self._current = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, self._average)
        return losses

    def _update_average(self) -> None:
        """average = d average + (1 - d) weights, with d = min(ema_decay, (1 + n) / (10 + n)) in step n = 0, 1, ...

        d starts low, as in TensorFlow's ExponentialMovingAverage, so that the first weights do not linger.
        """
        decay = min(self.ema_decay, (1 + self._ema_steps) / (10 + self._ema_steps))
        weights = [parameter.detach() for parameter in self.model.parameters()]
        torch._foreach_lerp_(self._average, weights, 1 - decay)
        self._ema_steps += 1

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        if self.ema_decay:
            self.model.ema = {"steps": self._ema_steps, "current": self._current}
        super()._save_checkpoint(epoch, verbose=verbose, **kwargs)

    def resume_checkpoint(self, resume_file) -> None:
        """RecBole's. A checkpoint that was trained without an average goes on from its weights, averaged from here."""
        super().resume_checkpoint(resume_file)
        state = getattr(self.model, "ema", None)
        if self.ema_decay and state:
            self._ema_steps = state["steps"]
            if state["current"] is None:  # saved before any epoch
                return
            self._current = [weight.to(self.device) for weight in state["current"]]
            self._average = [parameter.detach().clone() for parameter in self.model.parameters()]
