"""What PRISM adds to a training step row by row: PRISM_* with fusion_scope sequence against RecBole's plain backbone.

    python benchmarks/row_overhead.py [--data dataset/ml-100k] [--models SASRec GRU4Rec BERT4Rec] [--rounds 5]

Anomaly detection is off in both; both train the same rows, one step each in turn, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from speed import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("dataset/ml-100k"))
    parser.add_argument("--models", nargs="+", default=["SASRec", "GRU4Rec", "BERT4Rec"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import recbole_prism  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            settings = {"training_mode": "rows", "fusion_scope": "sequence"}
            plain = Run(model, args.data.resolve(), "RecBole, anomaly detection off", folder)
            prism = Run(model, args.data.resolve(), "PRISM", folder, **settings)
            seconds = [(plain.step_seconds(1), prism.step_seconds(1)) for _ in range(args.rounds + 1)][1:]
            theirs, ours = (min(values) for values in zip(*seconds, strict=True))
            print(f"{model}: RecBole {theirs:.2f} s, PRISM_{model} {ours:.2f} s a step, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
