"""Two processes on two cores against one on one core: targets per second of packed training.

    python benchmarks/processes.py [--data FOLDER/amazon-beauty] [--model PRISM_SASRec] [--processes 2] [--rounds 3]

Each run has processes of its own, with one thread each, on as many cores. One process and several take turns; a round
trains two epochs of which the second counts. The best round of each counts, and the ratio of every pair is printed,
since on a machine that others use single seconds mean little.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds_of_epoch(data: Path, model: str, processes: int, port: int) -> float:
    """Wall clock of the second epoch, as the log tells it."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_recbole_prism.py"), f"--model={model}", f"--dataset={data.name}"]
        command += [f"--data_path={data.parent}", f"--nproc={processes}", f"--port={port}", "--epochs=2"]
        command += ["--eval_step=0", "--show_progress=False", "--training_mode=packed", f"--checkpoint_dir={folder}"]
        done = subprocess.run(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
        )
    found = re.search(r"epoch 1 training.*?time.*?: ([\d.]+)s", done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(done.stderr[-2000:])
    return float(found.group(1))


def count_targets(data: Path) -> int:
    """Leave-one-out: all but the first and the last two items of each user."""
    lines = (data / f"{data.name}.inter").read_text(encoding="utf-8").splitlines()
    column = [field.split(":")[0] for field in lines[0].split("\t")].index("user_id")
    users = [line.split("\t")[column] for line in lines[1:]]
    counts: dict[str, int] = {}
    for user in users:
        counts[user] = counts.get(user, 0) + 1
    return sum(max(count - 3, 1) for count in counts.values() if count > 1)  # one is left to train where there are few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("dataset/ml-100k"))
    parser.add_argument("--model", default="PRISM_SASRec")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=29811)
    args = parser.parse_args()
    data = args.data.resolve()
    targets, best = count_targets(data), {}
    print(f"| round | load before | 1 process s / epoch | {args.processes} processes s / epoch | ratio |")
    print("|---|---|---|---|---|", flush=True)
    for number in range(args.rounds):
        load, seconds = os.getloadavg()[0], {}
        for processes in (1, args.processes):
            seconds[processes] = seconds_of_epoch(data, args.model, processes, args.port + number)
            best[processes] = min(best.get(processes, float("inf")), seconds[processes])
        one, several = seconds[1], seconds[args.processes]
        print(f"| {number + 1} | {load:.1f} | {one:.2f} | {several:.2f} | {one / several:.2f} |", flush=True)
    one, several = best[1], best[args.processes]
    rates = f"{targets / one:.0f} targets/s with one process, {targets / several:.0f} with {args.processes}"
    print(f"\n{args.model} on {data.name}, packed, best of {args.rounds}: {rates}: {one / several:.2f} times")


if __name__ == "__main__":
    main()
