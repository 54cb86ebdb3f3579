"""RecBole as shipped, RecBole without anomaly detection, and ours: seconds per epoch, evaluation, peak memory.

    python benchmarks/speed.py [--data ml-100k FOLDER/amazon-beauty ...] [--models SASRec GRU4Rec BERT4Rec]
        [--steps 2] [--rounds 2] [--rectools PYTHON] [--output docs/performance.md]

Everything runs in this process on one thread and takes turns; seconds are CPU seconds of the process (with a GPU:
seconds of the clock). An epoch of RecBole takes minutes, so ``--steps`` training steps are timed, ours many times
as many, and scaled to the steps of an epoch. The least of the rounds counts. Peak memory is that of a process of
its own that prepares the data, trains these steps and evaluates.

``--rectools`` names an interpreter that has ``rectools[torch]``; its SASRec takes turns too (``rectools_sasrec.py``).

Modalities: the dataset's own text features where there are any, else random ones, 384 wide; and 1280 wide random
images.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import torch

OURS = 8  # steps of ours for one of RecBole's
EVALUATIONS = 3  # per round
MARK = "<!-- written by benchmarks/speed.py -->"  # --output keeps what stands before it
GLIBC = (32 << 20, 64 << 20)  # thresholds to which glibc comes by itself, at most, as large blocks are freed
VARIANTS = ("RecBole as shipped", "RecBole, anomaly detection off", "packed", "PRISM")


class Run:
    """One model on one dataset, trained a few steps at a time."""

    def __init__(self, model: str, data: Path, variant: str, folder: str, **overrides) -> None:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        self.anomaly = variant == "RecBole as shipped"
        name = f"PRISM_{model}" if variant == "PRISM" else model
        settings = {
            "data_path": str(data.parent),
            "checkpoint_dir": folder,
            "show_progress": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
        }
        if variant == "PRISM":
            settings["modalities"] = make_features(data, Path(folder))
        elif variant == "packed":
            settings["training_mode"] = "packed"
        if model == "BERT4Rec" and variant in ("packed", "PRISM"):  # the work of RecBole's rows
            settings["training_mode"] = "rows"
        config = Config(model=name, dataset=data.name, config_dict={**settings, **overrides})
        init_seed(config["seed"], config["reproducibility"])
        self.train, _, self.test = data_preparation(config, create_dataset(config))
        network = get_model(name)(config, self.train._dataset).to(config["device"])
        self.trainer = get_trainer(config["MODEL_TYPE"], name)(config, network)
        self.trainer.eval_collector.data_collect(self.train)
        self.packed = bool(config["unpadded"])
        self.keeps_memory = variant in ("packed", "PRISM")  # our trainers do, RecBole's do not
        self.steps_per_epoch = len(self._batches())
        self.n_targets = len(self.train._dataset)
        if hasattr(self.trainer, "encode"):
            from recbole_prism.training.masking import use_fast_masking

            use_fast_masking(self.train, config)

    def _batches(self):
        return self.trainer._packed_batches(self.train, 0) if self.packed else self.train

    def epoch_seconds(self, steps: int) -> float:
        return self.step_seconds(steps) * self.steps_per_epoch

    def step_seconds(self, steps: int) -> float:
        """Mean over the first steps of an epoch."""
        from recbole.trainer import Trainer

        self._set_memory()
        loss_func = self.trainer._packed_loss(self.train) if self.packed else None
        batches = First(self._batches(), steps)
        with torch.autograd.set_detect_anomaly(self.anomaly, check_nan=True):
            seconds = clock(lambda: Trainer._train_epoch(self.trainer, batches, 0, loss_func=loss_func))
        return seconds / batches.done

    def _set_memory(self) -> None:
        from recbole_prism.training.memory import keep_freed_memory, set_thresholds

        keep_freed_memory() if self.keeps_memory else set_thresholds(*GLIBC)

    def evaluation_seconds(self) -> float:
        """The least of a few: the first ones still get their memory from the system."""
        self._set_memory()
        return min(clock(lambda: self.trainer.evaluate(self.test, load_best_model=False)) for _ in range(EVALUATIONS))


class First:
    """The first batches of a loader."""

    shuffle = False

    def __init__(self, loader, steps: int) -> None:
        self.loader, self.steps, self.done = loader, steps, 0

    def __len__(self) -> int:
        return min(self.steps, len(self.loader))

    def __iter__(self):
        for batch in islice(self.loader, self.steps):
            self.done += 1
            yield batch


def clock(work) -> float:
    if not torch.cuda.is_available():
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def make_features(data: Path, folder: Path) -> dict[str, str]:
    """Feature files of every item: name of the modality -> file."""
    from recbole_prism.datasets import BUNDLED
    from recbole_prism.features import write_features

    if data.name in BUNDLED:
        return dict.fromkeys(("image", "text"))
    lines = (data / f"{data.name}.inter").read_text(encoding="utf-8").splitlines()
    column = [field.split(":")[0] for field in lines[0].split("\t")].index("item_id")
    items = sorted({line.split("\t")[column] for line in lines[1:]})
    generator, made = np.random.default_rng(0), {}
    own = sorted(data.glob("text*.npy"))
    for name, width in (("image", 1280), ("text", 384)):
        file = folder / f"{data.name}.{name}.safetensors"
        if not file.exists():
            write_features(file, items, generator.normal(size=(len(items), width)).astype(np.float32), encoder="random")
        made[name] = str(own[0]) if own and name == "text" else str(file)
    return made


def gemm_peak() -> float:
    """GFLOP/s of a large matrix product: the most that this device gives a loss made of matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device)
    a @ a
    return max(2 * size**3 / clock(lambda: a @ a) / 1e9 for _ in range(10))


def loss_rate(n_items: int, hidden_size: int = 64, n_targets: int = 2048) -> float:
    """GFLOP/s of the three matrix products of our cross-entropy, loss and gradients together."""
    from recbole_prism.training.losses import linear_cross_entropy

    device = "cuda" if torch.cuda.is_available() else "cpu"
    states = torch.randn(n_targets, hidden_size, device=device, requires_grad=True)
    table = (torch.randn(n_items, hidden_size, device=device) * 0.05).requires_grad_()
    targets = torch.randint(1, n_items, (n_targets,), device=device)

    def step():
        linear_cross_entropy(states, table, targets).backward()

    step()
    return max(6 * n_targets * n_items * hidden_size / clock(step) / 1e9 for _ in range(5))


def rectools_seconds(python: str, data: Path, run: Run, steps: int) -> float:
    """CPU seconds of RecTools for the targets of our epoch, with so many users a step as give a batch of targets."""
    import recbole

    home = Path(recbole.__file__).parent / "dataset_example" / data.name
    home = data if (data / f"{data.name}.inter").exists() else home
    length, targets = run.trainer.config["MAX_ITEM_LIST_LENGTH"], run.train._dataset.sequences().targets
    users = max(1, round(run.train.step / np.minimum(targets, length).mean()))
    script = Path(__file__).with_name("rectools_sasrec.py")
    command = [python, str(script), str(home / f"{data.name}.inter"), str(users), str(length), str(steps)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return float(answer) / 1000 * run.n_targets


def measure(model: str, data: Path, folder: str, args) -> dict[str, dict[str, float]]:
    """Seconds of an epoch and of an evaluation for every variant, the least of all rounds."""
    runs = {v: Run(model, data, v, folder) for v in VARIANTS if v != VARIANTS[0]}
    runs[VARIANTS[0]] = runs[VARIANTS[1]]  # the same model; anomaly detection is switched around its steps
    best, peers = {v: {"epoch": float("inf"), "evaluation": float("inf")} for v in VARIANTS}, {}
    for _ in range(args.rounds):
        for variant in VARIANTS:
            run = runs[variant]
            run.anomaly = variant == VARIANTS[0]
            steps = args.steps if variant.startswith("RecBole") else args.steps * OURS
            best[variant]["epoch"] = min(best[variant]["epoch"], run.epoch_seconds(steps))
            if variant != VARIANTS[0]:
                best[variant]["evaluation"] = min(best[variant]["evaluation"], run.evaluation_seconds())
        for name, seconds in peer_seconds(args, model, data, runs, folder).items():
            peers[name] = min(peers.get(name, seconds), seconds)
    best[VARIANTS[0]]["evaluation"] = best[VARIANTS[1]]["evaluation"]
    best["peers"] = peers
    best["steps"] = {v: runs[v].steps_per_epoch for v in VARIANTS}
    best["targets"] = runs["PRISM"].n_targets
    best["items"] = runs["PRISM"].train._dataset.item_num
    return best


def peer_seconds(args, model: str, data: Path, runs: dict[str, Run], folder: str) -> dict[str, float]:
    """RecTools' SASRec, and ours with feed-forward layers as narrow as it has: seconds of our epoch."""
    if not args.rectools or model != "SASRec":
        return {}
    for variant in ("packed", "PRISM"):
        if f"{variant} 64" not in runs:
            runs[f"{variant} 64"] = Run(model, data, variant, folder, inner_size=64)
    steps = args.steps * OURS
    return {
        "RecTools SASRec": rectools_seconds(args.rectools, data, runs["packed"], args.steps),
        "SASRec, packed, inner_size 64": runs["packed 64"].epoch_seconds(steps),
        "PRISM_SASRec, inner_size 64": runs["PRISM 64"].epoch_seconds(steps),
    }


def peak_memory(model: str, data: Path, variant: str, folder: str, args) -> float:
    """Megabytes that a process of its own needs at most."""
    command = [sys.executable, __file__, "--child", json.dumps([model, str(data), variant, folder, args.steps])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return float(answer)


def child(model: str, data: str, variant: str, folder: str, steps: int) -> None:
    run = Run(model, Path(data), variant, folder)
    run.epoch_seconds(steps if variant.startswith("RecBole") else steps * OURS)
    run.evaluation_seconds()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(resident_peak())


def resident_peak() -> float:
    """Megabytes; ru_maxrss would count what the parent had when it forked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def report(model: str, data: Path, result: dict, memory: dict[str, float], peak: float) -> str:
    rows = [f"### {model}, {data.name} ({result['items']} items, {result['targets']} targets)", ""]
    rows += ["| | s / epoch | steps | s / 1000 targets | / shipped | / off | evaluation s | / off | peak MB | / off |"]
    rows += ["|" + "---|" * 10]
    thousands = result["targets"] / 1000
    shipped, off = result[VARIANTS[0]], result[VARIANTS[1]]
    for variant, steps in result["steps"].items():
        own = result[variant]
        trains = "rows without padding" if model == "BERT4Rec" else "packed"
        ours = f"PRISM_{model}, {trains}" if model == "BERT4Rec" else f"PRISM_{model}"
        name = {"packed": f"{model}, {trains}", "PRISM": ours}.get(variant, variant)
        rows.append(
            f"| {name} | {own['epoch']:.1f} | {steps} | {own['epoch'] / thousands:.4f} "
            f"| {own['epoch'] / shipped['epoch']:.3f} | {own['epoch'] / off['epoch']:.3f} | {own['evaluation']:.2f} "
            f"| {own['evaluation'] / off['evaluation']:.2f} "
            f"| {memory[variant]:.0f} | {memory[variant] / memory[VARIANTS[1]]:.2f} |"
        )
    for name, seconds in result["peers"].items():
        rows.append(
            f"| {name} | | | {seconds / thousands:.4f} | {seconds / shipped['epoch']:.3f} "
            f"| {seconds / off['epoch']:.3f} | | | | |"
        )
    rate = loss_rate(result["items"])
    rows += ["", f"The loss alone: {rate:.0f} GFLOP/s, {rate / peak:.0%} of the {peak:.0f} of a large matrix product."]
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, default=[Path("dataset/ml-100k")])
    parser.add_argument("--models", nargs="+", default=["SASRec", "GRU4Rec", "BERT4Rec"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rectools", metavar="PYTHON", help="an interpreter with rectools[torch]")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import recbole_prism

    if args.child:
        return child(*json.loads(args.child))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    text = (
        f"{date.today()}, {device}, one thread, torch {torch.__version__}, numpy {np.__version__}, "
        f"RecBole-PRISM {recbole_prism.__version__}; {args.steps} steps of RecBole, {args.steps * OURS} of ours, "
        f"{args.rounds} rounds\n\n"
    )
    peak = gemm_peak()
    with tempfile.TemporaryDirectory() as folder:
        for data in args.data:
            for model in args.models:
                result = measure(model, data.resolve(), folder, args)
                off = peak_memory(model, data.resolve(), VARIANTS[1], folder, args)
                memory = {VARIANTS[0]: off, VARIANTS[1]: off}
                for variant in result["steps"]:
                    if variant not in memory:
                        memory[variant] = peak_memory(model, data.resolve(), variant, folder, args)
                part = report(model, data, result, memory, peak)
                print(part, flush=True)
                text += part + "\n"
    if args.output:
        known = args.output.read_text(encoding="utf-8") if args.output.exists() else ""
        args.output.write_text(known.partition(MARK)[0] + MARK + "\n\n" + text, encoding="utf-8")


if __name__ == "__main__":
    main()
