"""RecBole's Trainer with named losses, expert weights, and checkpoints that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import set_color

from recbole_prism.config import check_valid_metric
from recbole_prism.distributed.sharding import gathered, in_turn
from recbole_prism.errors import PRISMError
from recbole_prism.features import check_fingerprint, fingerprint_of
from recbole_prism.report.drawing import require_matplotlib
from recbole_prism.training.asynchronous import AsynchronousMixin
from recbole_prism.training.cold import ColdItemsMixin
from recbole_prism.training.ema import EMAMixin
from recbole_prism.training.evaluation import EvaluationMixin
from recbole_prism.training.packed import PackedMixin
from recbole_prism.training.resuming import ResumableMixin


class RecordingMixin:
    """Keeps what the summary of a run needs; in front of any RecBole Trainer."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.start_record()

    def start_record(self) -> None:
        self.epoch_seconds: list[float] = []
        self.epoch_losses: list[dict[str, float]] = []  # by name, summed over batches as RecBole does
        self.valid_results: list[dict[str, float]] = []
        self.resumed = False

    def fit(self, train_data, valid_data=None, *args, **kwargs):
        if valid_data is not None:
            check_valid_metric(self.config)
        if self.config["figures"]:
            require_matplotlib("figures")
        folder = self.config["checkpoint_dir"]
        if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
            raise PRISMError(f"checkpoint_dir: {folder} is no folder that can be written to")
        items = remember_items(self.model, train_data._dataset)
        if self.config["resume"] and not self.resumed:
            self.resumed = True
            self.resume_checkpoint(self.config["resume"])
            check_fingerprint(self.model.item_fingerprint, items)
        return super().fit(train_data, valid_data, *args, **kwargs)

    def _train_epoch(self, *args, **kwargs):
        start = perf_counter()
        losses = super()._train_epoch(*args, **kwargs)
        self.epoch_seconds.append(perf_counter() - start)
        parts = losses if isinstance(losses, tuple) else (losses,)
        names = getattr(self.model, "loss_names", ())
        names = names if len(names) == len(parts) else [f"loss{n}" if n else "loss" for n in range(len(parts))]
        self.epoch_losses.append({name: float(part) for name, part in zip(names, parts, strict=True)})
        return losses

    def _valid_epoch(self, *args, **kwargs):
        score, result = super()._valid_epoch(*args, **kwargs)
        self.valid_results.append(dict(result))
        return score, result

    def evaluate(self, eval_data, *args, **kwargs):
        """RecBole's; items that are drawn for a ranking (``mode: uni100``) are the same in every evaluation.

        RecBole draws them from numpy's generator, wherever training has left it.
        """
        state = np.random.get_state()
        np.random.seed(self.config["seed"])
        try:
            return super().evaluate(eval_data, *args, **kwargs)
        finally:
            np.random.set_state(state)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        """Write under a temporary name, then rename. Raises PRISMError, leaving no half file, if the disk refuses."""
        epoch = max(epoch, self.start_epoch - 1)  # RecBole writes -1 where nothing is left to train
        final = kwargs.pop("saved_model_file", self.saved_model_file)
        temporary = f"{final}.{os.getpid()}.tmp"
        try:
            super()._save_checkpoint(epoch, verbose=False, saved_model_file=temporary, **kwargs)
            if os.path.exists(temporary):
                os.replace(temporary, final)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            raise PRISMError(
                f"{final}: the checkpoint cannot be written ({error}); free some space or set checkpoint_dir"
            ) from error
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {final}")


def remember_items(model, dataset) -> str:
    """Have checkpoints of RecBole's own models say, too, which items the rows of their tables stand for."""
    if not hasattr(model, "item_fingerprint"):
        model.item_fingerprint = fingerprint_of(dataset.field2id_token.get(dataset.iid_field, ()))  # some have no items
        model.other_parameter_name = [*getattr(model, "other_parameter_name", []), "item_fingerprint"]
    return model.item_fingerprint


class PackedTrainer(RecordingMixin, ResumableMixin, EMAMixin, PackedMixin, AsynchronousMixin, EvaluationMixin, Trainer):
    """RecBole's Trainer for RecBole's own models, packed."""


class PRISMTrainer(ColdItemsMixin, PackedTrainer):
    """Trains what ``PRISMMixin`` makes: losses reach log and tensorboard under their names."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.mean_expert_weights: dict[str, float] = {}
        self.expert_weights: torch.Tensor | None = None  # [rows, K] of the last evaluation, in the loader's order
        self._weights: list[torch.Tensor] = []

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses) -> str:
        """RecBole's line, then each loss under its name (times its lambda, summed over batches as RecBole does)."""
        losses = losses if isinstance(losses, tuple) else (losses,)
        line = super()._generate_train_loss_output(epoch_idx, s_time, e_time, sum(losses))
        if len(losses) == 1:
            return line
        places = self.config["loss_decimal_place"] or 4
        named = ", ".join(f"{set_color(n, 'blue')}: {v:.{places}f}" for n, v in self._named(losses))
        return f"{line[:-1]}, {named}]"

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train") -> None:
        losses = losses if isinstance(losses, tuple) else (losses,)
        super()._add_train_loss_to_tensorboard(epoch_idx, sum(losses), tag)
        for name, loss in self._named(losses):
            self.tensorboard.add_scalar(f"{tag}/{name}", loss, epoch_idx)

    def _named(self, losses: Sequence[float]):
        return zip(self.model.loss_names, losses, strict=True)

    @torch.no_grad()
    def evaluate(self, eval_data, *args, **kwargs):
        """RecBole's evaluation; keeps the weights of the experts of each evaluated row, and their means."""
        self._weights, self.model.expert_weights = [], None
        result = super().evaluate(eval_data, *args, **kwargs)
        if not self.config["single_spec"]:
            self._weights = in_turn(gathered(self._weights))
        names = getattr(self.model.fusion, "names", [])
        if self._weights:
            self.expert_weights = torch.cat(self._weights)
            weighed = self.expert_weights[self.expert_weights.any(1)]  # rows without any modality have none
            if len(weighed):
                self.mean_expert_weights = dict(zip(names, weighed.mean(0).tolist(), strict=True))
        return result

    def _after_scoring(self) -> None:
        weights, self.model.expert_weights = self.model.expert_weights, None
        if weights is not None:
            self._weights.append(weights.float().cpu())
