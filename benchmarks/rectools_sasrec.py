"""SASRec of RecTools (``rectools[torch]``): CPU seconds per 1,000 trained targets, for ``speed.py --rectools PYTHON``.

    python benchmarks/rectools_sasrec.py FILE.inter BATCH_USERS MAX_LENGTH STEPS

Runs with an interpreter that has RecTools, which needs other versions of packages than RecBole. The sizes are RecBole's
(width 64, two layers of two heads, dropout .5, softmax over all items) but for the feed-forward layers, which RecTools
fixes at 64 hidden features where RecBole has 256. The last two items of a user are left out, as for our training.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class Clock(Callback):
    """CPU seconds and targets of all steps but the first."""

    def __init__(self) -> None:
        self.seconds, self.targets, self.start = 0.0, 0, None

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        now = time.process_time()
        if self.start is not None:
            self.seconds += now - self.start
            self.targets += int((batch["y"] > 0).sum())
        self.start = time.process_time()


def training_part(file: Path) -> pd.DataFrame:
    """Interactions but the last two of each user, in RecTools' columns."""
    table = pd.read_csv(file, sep="\t")
    table.columns = [column.split(":")[0] for column in table.columns]
    table = table.sort_values(["user_id", "timestamp"], kind="stable")
    table = table[table.groupby("user_id").cumcount(ascending=False) >= 2]
    table = table.rename(columns={"user_id": Columns.User, "item_id": Columns.Item, "timestamp": Columns.Datetime})
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="s")
    table[Columns.Weight] = 1.0
    return table[[Columns.User, Columns.Item, Columns.Datetime, Columns.Weight]]


def main() -> None:
    file, (users, length, steps) = Path(sys.argv[1]), map(int, sys.argv[2:])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def make_trainer() -> Trainer:
        return Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=steps + 1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Clock()],
        )

    model = SASRecModel(
        n_blocks=2,
        n_heads=2,
        n_factors=64,
        dropout_rate=0.5,
        session_max_len=length,
        loss="softmax",
        batch_size=users,
        epochs=1,
        get_trainer_func=make_trainer,
    )
    model.fit(Dataset.construct(training_part(file)))
    clock = model.fit_trainer.callbacks[0]  # RecTools trains with a copy of the trainer
    print(1000 * clock.seconds / clock.targets)


if __name__ == "__main__":
    main()
