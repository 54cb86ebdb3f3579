"""The whole way on data of the size of the paper's largest set, Yelp: loading, training, evaluation, recommending.

    python benchmarks/yelp_size.py FOLDER [--shares 0.1 0.333 1] [--steps 40] [--rows 20000]

Makes datasets below FOLDER with Yelp's statistics (287,116 users, 148,523 items, 4,392,169 interactions, at least five
each, heavy tails) and 512-dimensional features of two modalities, or a share of all that; what exists is kept. Each one
then goes through a process of its own: PRISM_SASRec, sampled softmax. Training takes ``--steps`` steps, evaluation
``--rows`` test users, both scaled to all of them; recommending writes the ten best items of all users.

Seconds are CPU seconds of one thread; peaks are of the memory that the process holds while a stage runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
from speed import First, resident_peak

USERS, ITEMS, INTERACTIONS, DIMENSIONS = 287_116, 148_523, 4_392_169, 512
LEAST = 5  # interactions of every user and item


def generate(home: Path, users: int, items: int, interactions: int, dimensions: int, seed: int = 0) -> None:
    """An atomic file and two feature files. Raises ValueError if there are too few interactions."""
    from recbole_prism.features import write_features

    if interactions < LEAST * max(users, items):
        raise ValueError(
            f"{interactions} interactions: needs at least {LEAST} for each of {users} users, {items} items"
        )
    generator = np.random.default_rng(seed)
    home.mkdir(parents=True, exist_ok=True)
    user = np.repeat(np.arange(users), heavy_tailed(users, interactions, 1.2, generator))
    item = np.repeat(np.arange(items), heavy_tailed(items, interactions, 1.4, generator))
    generator.shuffle(item)
    time_of = generator.integers(1_100_000_000, 1_600_000_000, interactions)
    with open(home / f"{home.name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, interactions, 1 << 16):
            part = slice(start, start + (1 << 16))
            rows = zip(user[part].tolist(), item[part].tolist(), time_of[part].tolist(), strict=True)
            file.writelines(f"u{u}\ti{i}\t{t}\n" for u, i, t in rows)
    names = [f"i{number}" for number in range(items)]
    for modality in ("image", "text"):
        features = generator.standard_normal((items, dimensions), dtype=np.float32)
        write_features(home / f"{home.name}.{modality}.safetensors", names, features, encoder="random")


def heavy_tailed(n: int, total: int, spread: float, generator) -> np.ndarray:
    """n counts of at least LEAST with the given sum, their excess log-normal: [n]."""
    weights = generator.lognormal(sigma=spread, size=n)
    return LEAST + generator.multinomial(total - LEAST * n, weights / weights.sum())


class Stages:
    """Seconds and peak memory of one stage after another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        if Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self.start = time.process_time()

    def end(self, name: str) -> float:
        self.seconds[name], self.peaks[name] = time.process_time() - self.start, resident_peak()
        self.begin()
        return self.seconds[name]


def child(home: Path, steps: int, rows: int) -> None:
    """One dataset through all stages; the last line is the result as JSON."""
    import torch

    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    import torch._dynamo  # with the first optimizer; here, so that it counts among the imports
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, get_trainer, init_seed

    import recbole_prism  # noqa: F401

    settings = {
        "data_path": str(home.parent),
        "checkpoint_dir": str(home),
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "loss_type": "sampled",
    }
    stages = Stages()
    config = Config(model="PRISM_SASRec", dataset=home.name, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    before = resident_peak()
    dataset = create_dataset(config)
    stages.end("reading")
    train, _, test = data_preparation(config, dataset)
    stages.end("split")
    model = get_model(config["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    stages.end("model and features")
    batches = trainer._packed_batches(train, 0)
    n_steps = len(batches)
    Trainer._train_epoch(trainer, First(batches, steps), 0, loss_func=trainer._packed_loss(train))
    epoch = stages.end("training") * n_steps / min(steps, n_steps)
    trainer._save_checkpoint(0, verbose=False)
    stages.begin()
    n_rows = len(test._dataset)
    trainer.eval_collector.data_collect(train)
    some = list(islice(test.batch_sampler, -(-rows // test.step)))
    object.__setattr__(test, "batch_sampler", some)  # the first batches of the loader
    trainer.evaluate(test, load_best_model=False)
    evaluation = stages.end("evaluation") * n_rows / sum(map(len, some))
    raw = sum(file.stat().st_size for file in home.iterdir() if file.suffix in (".inter", ".safetensors")) / 2**20
    result = {
        "users": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        "interactions": len(dataset.base_feat),
        "dimensions": model.modalities.values_image.shape[1],
        "raw MB": raw,
        "imports MB": before,
        "seconds": stages.seconds | {"epoch": epoch, "evaluation": evaluation},
        "peaks": stages.peaks,
        "steps": n_steps,
        "checkpoint": trainer.saved_model_file,
    }
    print(json.dumps(result))


def recommend_all(checkpoint: str) -> dict[str, float]:
    """The ten best items of all users, through the command: CPU seconds and peak of the process."""
    command = [sys.executable, "-m", "recbole_prism", "recommend", checkpoint, "--all-users"]
    output = Path(checkpoint).with_name("recommended.csv")
    process = subprocess.Popen([*command, "--output", str(output)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return {"seconds": used.ru_utime + used.ru_stime, "peak MB": used.ru_maxrss / 2**10}


def sizes(share: float) -> dict[str, int]:
    wholes = {"users": USERS, "items": ITEMS, "interactions": INTERACTIONS}
    return {name: round(share * whole) for name, whole in wholes.items()} | {"dimensions": DIMENSIONS}


def variants(shares: list[float], grow: float | None) -> dict[str, dict[str, int]]:
    """Name -> sizes: the shares of everything, and a share of which one size at a time is doubled."""
    chosen = {f"yelp-{share:g}": sizes(share) for share in shares}
    for name in sizes(1) if grow else ():
        changed = sizes(grow)
        chosen[f"yelp-{grow:g}-{name}"] = changed | {name: 2 * changed[name]}
    return chosen


def row(name: str, result: dict) -> str:
    seconds, peaks, raw = result["seconds"], result["peaks"], result["raw MB"]
    loading = max(peaks["reading"], peaks["split"], peaks["model and features"]) - result["imports MB"]
    return (
        f"| {name} | {seconds['reading']:.1f} | {seconds['split']:.1f} | {seconds['model and features']:.1f} "
        f"| {seconds['epoch']:.0f} | {result['steps']} | {seconds['evaluation']:.0f} | {result['all']['seconds']:.0f} "
        f"| {raw:.0f} | {loading:.0f} | {loading / raw:.2f} | {peaks['training']:.0f} | {peaks['evaluation']:.0f} "
        f"| {result['all']['peak MB']:.0f} |"
    )


HEAD = (
    "| data | reading s | rows and split s | model and features s | s / epoch | steps | evaluation s | all users s "
    "| raw MB | loading MB | / raw | peak MB training | evaluation | all users |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shares", nargs="*", type=float, default=[0.1, 0.333, 1])
    parser.add_argument("--grow", type=float, help="a share of which users, items, ... are doubled one at a time")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--no-recommending", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.folder, args.steps, args.rows)
    print(f"{HEAD}\n{'|---' * HEAD.count(' | ')}|---|", flush=True)
    for name, wanted in variants(args.shares, args.grow).items():
        home = args.folder.resolve() / name
        if not (home / f"{name}.text.safetensors").exists():
            generate(home, **wanted)
        command = [sys.executable, __file__, str(home), "--child", f"--steps={args.steps}", f"--rows={args.rows}"]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        nothing = {"seconds": float("nan"), "peak MB": float("nan")}
        result["all"] = nothing if args.no_recommending else recommend_all(result["checkpoint"])
        print(row(name, result), flush=True)


if __name__ == "__main__":
    main()
