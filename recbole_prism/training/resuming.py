"""Checkpoints from which a run goes on as if it had not stopped, of RecBole's own models as of ours."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch

from recbole_prism.config import model_yamls, read_yaml
from recbole_prism.distributed import processes
from recbole_prism.distributed.sharding import gathered
from recbole_prism.errors import PRISMError
from recbole_prism.recommend.checkpoint import read_checkpoint

UNTRAINED = {"report", "figures", "torch_compile"}  # keys that do not change what is trained


class ResumableMixin:
    """In front of any RecBole Trainer: checkpoints hold the state of every random generator the training draws from.

    They travel as RecBole's ``other_parameter``, which any RecBole reads and writes.
    """

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.start_resumable()

    def start_resumable(self) -> None:
        self._train_generator: torch.Generator | None = None
        self._resumed: dict | None = None
        known = getattr(self.model, "other_parameter_name", [])
        self.model.other_parameter_name = [*dict.fromkeys([*known, "random_states"])]
        self.model.random_states = None

    def fit(self, train_data, *args, **kwargs):
        self._train_generator = getattr(train_data, "generator", None)  # loaders with a knowledge graph have two
        if self.start_epoch and self._train_generator is None:
            self.logger.warning(
                "resume: checkpoints do not hold how these interactions and triples were shuffled; the run "
                "will end otherwise than one that was never stopped"
            )
        if self._resumed is not None:
            restore_random_states(self._resumed, self._train_generator)
            self._resumed = None
        return super().fit(train_data, *args, **kwargs)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        own, (_, world_size) = random_states(self._train_generator), processes.share_of(self.config)
        own["valid_result"] = self.valid_results[-1] if self.valid_results else self.best_valid_result
        self.model.random_states = {"of_each_process": gathered(own)} if world_size > 1 else own
        super()._save_checkpoint(epoch, verbose=verbose, **kwargs)

    def resume_checkpoint(self, resume_file) -> None:
        if sum(isinstance(own, torch.optim.Optimizer) for own in vars(self).values()) > 1:
            raise PRISMError(
                f"resume: checkpoints of {self.config['model']} hold one of its optimizers only; start anew"
            )
        if processes.is_first():
            if not os.path.isfile(resume_file):
                raise PRISMError(f"{resume_file}: no such checkpoint")
            _check_unchanged(resume_file, self.config)
        try:
            super().resume_checkpoint(resume_file)
        except RuntimeError as error:  # torch's, of RecBole's own models
            reason = "; ".join(line.strip() for line in str(error).splitlines()[1:2])
            raise PRISMError(
                f"{resume_file}: does not fit {self.config['model']} on this dataset ({reason}); "
                "was it trained with another model, dataset, filtering or hidden size?"
            ) from error
        states, (rank, world_size) = getattr(self.model, "random_states", None), processes.share_of(self.config)
        everyone = states.get("of_each_process", [states]) if states else []
        self._resumed = everyone[rank] if len(everyone) == world_size else None  # else: those of a fresh start
        self.best_valid_result = everyone[0].get("valid_result") if everyone else None


def random_states(generator: torch.Generator | None) -> dict:
    """States of Python's, numpy's and torch's generators, and of the one that shuffles the train loader."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": None if generator is None else generator.get_state(),
    }


def restore_random_states(states: dict, generator: torch.Generator | None) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    if generator is not None and states["loader"] is not None:
        generator.set_state(states["loader"].cpu())


def _check_unchanged(checkpoint: str, config) -> None:
    """Raise PRISMError if a key that nobody sets now was another when the checkpoint was made, by another default, or
    if one is set that would have no effect, since the optimizer goes on with its own."""
    before = read_checkpoint(Path(checkpoint))["config"].final_config_dict
    for key in ("learner", "learning_rate", "weight_decay"):
        if before.get(key) != config[key]:
            raise PRISMError(
                f"{checkpoint}: was trained with {key}: {before.get(key)}, and its optimizer goes on with it; "
                f"{config[key]} would have no effect (start anew for that)"
            )
    ours = read_yaml(model_yamls("PRISM")[0]).keys() - config.external_config_dict.keys() - UNTRAINED
    changed = sorted(key for key in ours & before.keys() if key in config and before[key] != config[key])
    if changed:
        was = ", ".join(f"{key}: {before[key]}" for key in changed)
        now = ", ".join(str(config[key]) for key in changed)
        raise PRISMError(f"{checkpoint}: was trained with {was}, and the defaults are {now} now; set what is wanted")
