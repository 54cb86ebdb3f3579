"""Packed epochs inside RecBole's Trainer."""

from __future__ import annotations

from functools import partial
from logging import getLogger

import numpy as np
import torch
from recbole.model.sequential_recommender.bert4rec import BERT4Rec

from recbole_prism.distributed.processes import share_of
from recbole_prism.errors import PRISMError
from recbole_prism.models.table import backbone_of
from recbole_prism.training.batches import PackedBatches
from recbole_prism.training.dataset import require_prefixes
from recbole_prism.training.encoders import PACKED
from recbole_prism.training.kernels import use_fast_kernels
from recbole_prism.training.losses import make_negative_sampler
from recbole_prism.training.masked import MaskedBERT4Rec
from recbole_prism.training.masking import use_fast_masking, use_fewer_rows
from recbole_prism.training.memory import keep_freed_memory
from recbole_prism.training.modes import window_stride
from recbole_prism.training.objective import packed_loss

LONG = 20  # targets of a window on the mean, from which a batch has few windows and a noisy gradient


class PackedMixin:
    """In front of RecBole's Trainer: replaces the batches and the loss where a backbone can be packed, nothing else."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        if type(model) is BERT4Rec:  # RecBole's own, for training_mode: rows
            model.__class__ = MaskedBERT4Rec
        model.beyond_recbole = ()
        use_fast_kernels(model)
        keep_freed_memory(self.optimizer)
        self._sequences = self._negative_sampler = self._rows = None
        self.encode = PACKED[backbone_of(config["model"])] if config["unpadded"] else None

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        use_fast_masking(train_data, self.config)
        if not isinstance(self.model, MaskedBERT4Rec):
            check_negatives(train_data, self.config["loss_type"])
        else:
            self.model.sample_negatives(self._sampler(train_data), self.config["num_negatives"])
            if self.config["training_mode"] == "packed":
                self._rows = self._rows or use_fewer_rows(train_data, self.config)
                self._rows.epoch = epoch_idx
        if self.encode:
            loss_func = loss_func or self._packed_loss(train_data)
            train_data = self._packed_batches(train_data, epoch_idx)
        return super()._train_epoch(train_data, epoch_idx, loss_func=loss_func, show_progress=show_progress)

    def _packed_batches(self, train_data, epoch_idx: int) -> PackedBatches:
        config = self.config
        if self._sequences is None:
            require_prefixes(train_data._dataset)
            self._sequences = train_data._dataset.sequences()
        rank, world_size = share_of(config)
        batches = PackedBatches(
            self._sequences,
            batch_size=train_data.step,  # RecBole's: positives per batch
            max_length=config["MAX_ITEM_LIST_LENGTH"],
            stride=window_stride(config),
            epoch=epoch_idx,
            seed=config["seed"],
            random_offset=bool(config["window_offset"]) and config["window_stride"] != "exact",
            shuffle=config["shuffle"],
            rank=rank,
            world_size=world_size,
            sample_negatives=partial(self._sample_negatives, train_data) if config["loss_type"] == "BPR" else None,
        )
        if epoch_idx == 0 and "learning_rate" not in config.external_config_dict:
            advise_long_windows(batches, config["learning_rate"])
        return batches

    def _sample_negatives(self, train_data, places: np.ndarray) -> torch.Tensor:
        """RecBole's negatives for the targets at these places."""
        users, items = self._sequences.users[places], self._sequences.items[places]
        return train_data._sampler.sample_by_user_ids(users, items, train_data.neg_sample_num)

    def _sampler(self, train_data):
        if self.config["sampled_softmax"] and self._negative_sampler is None:
            self._negative_sampler = make_negative_sampler(self.config, train_data._dataset)
        return self._negative_sampler

    def _packed_loss(self, train_data):
        return partial(
            packed_loss,
            self.model,
            encode=self.encode,
            sampler=self._sampler(train_data),
            n_negatives=self.config["num_negatives"],
        )

    def sync_grad_loss(self):
        """RecBole's, which gives every parameter a gradient for DistributedDataParallel, in one operation of autograd.

        The table is left out: any loss reaches it.
        """
        table = self.model.item_embedding._parameters["weight"]
        return _Zero.apply(*(parameter for parameter in self.model.parameters() if parameter is not table))

    def _build_optimizer(self, **kwargs) -> torch.optim.Optimizer:
        """RecBole's; Adam and AdamW in torch's fused form, one pass over the parameters instead of ten."""
        optimizer = super()._build_optimizer(**kwargs)
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            return optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        options = {key: optimizer.defaults[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
        return type(optimizer)(parameters, **options, fused=True)


def check_negatives(train_data, loss_type: str | None) -> None:
    """Raise PRISMError if a loss on pairs has no second of them."""
    if loss_type == "BPR" and train_data.neg_sample_args["distribution"] == "none":
        raise PRISMError(
            "loss_type: BPR needs negatives, and none are drawn; set train_neg_sample_args: "
            "{distribution: uniform, sample_num: 1}, and leave out dataloaders that were saved without"
        )


def advise_long_windows(batches: PackedBatches, learning_rate: float) -> None:
    """Say in the log where a larger learning rate may train better (docs/choices.md, "Rows and packed")."""
    targets = batches.n_targets.mean() if len(batches.n_targets) else 0
    if targets >= LONG:
        getLogger().info(
            f"packed: {targets:.0f} targets a window, so gradients are noisier than by rows; "
            f"try learning_rate: {2 * learning_rate:g} to {4 * learning_rate:g} too"
        )


class _Zero(torch.autograd.Function):
    """0 with a gradient of 0 for each of the parameters."""

    @staticmethod
    def forward(ctx, *parameters):
        ctx.save_for_backward(*parameters)
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx, upstream):
        return tuple(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
