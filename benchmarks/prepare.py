"""How long `prepare` takes on generated reviews, beside decompressing and parsing the same file.

    python benchmarks/prepare.py [--lines 1000000] [--rounds 3]

Both run in this process on one core, interleaved. The yardstick reads the gzip file line by line with the standard
library and parses every line with orjson; "chunked" is the quickest reading loop known to us, for honesty. Processor
time is given too: on a machine that others use, it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import gzip
import random
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path

import orjson

from recbole_prism.prepare import prepare_dataset
from recbole_prism.prepare.readers import RawFile


def generate(path: Path, lines: int) -> None:
    """Reviews shaped like Amazon's of 2018: a hundred words on average, users and items with long tails."""
    random.seed(0)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(5000)]
    cumulative = list(accumulate(1 / rank for rank in range(1, 5001)))
    with gzip.open(path, "wb", compresslevel=6) as stream:
        for _ in range(lines):
            review = {
                "overall": float(random.randint(1, 5)),
                "verified": True,
                "reviewTime": "01 1, 2015",
                "reviewerID": f"A{int(random.paretovariate(0.6)) % 300000:013d}",
                "asin": f"B{int(random.paretovariate(0.5)) % 60000:09d}",
                "reviewerName": "Someone",
                "reviewText": " ".join(random.choices(words, cum_weights=cumulative, k=random.randint(5, 195))),
                "summary": "as described",
                "unixReviewTime": 1400000000 + random.randrange(10**8),
            }
            stream.write(orjson.dumps(review) + b"\n")


def line_by_line(path: Path) -> int:
    count = 0
    with gzip.open(path, "rb") as stream:
        for line in stream:
            count += bool(orjson.loads(line))
    return count


def chunked(path: Path) -> int:
    return sum(bool(orjson.loads(line)) for lines in RawFile(path).blocks() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="keep the generated file here, or use it if it is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "reviews.json.gz"
        if not path.is_file():
            generate(path, args.lines)
        print(f"{args.lines:,} lines, {path.stat().st_size / 1e6:.0f} MB compressed")
        seconds: dict[str, list[float]] = {"line by line": [], "chunked": [], "prepare": []}
        of_processor: dict[str, list[float]] = {name: [] for name in seconds}
        for number in range(args.rounds):
            for name in seconds:
                start, start_of_processor = time.perf_counter(), time.process_time()
                if name == "prepare":
                    prepare_dataset("amazon-2018", f"n{number}", data_path=folder, reviews=path)
                else:
                    (line_by_line if name == "line by line" else chunked)(path)
                seconds[name].append(time.perf_counter() - start)
                of_processor[name].append(time.process_time() - start_of_processor)
        for kind, times in (("wall", seconds), ("processor", of_processor)):
            for name, values in times.items():
                print(f"{kind:9} {name:13} {spread(values)} s")
            for name in ("line by line", "chunked"):
                ratios = [ours / theirs for ours, theirs in zip(times["prepare"], times[name], strict=True)]
                print(f"{kind:9} prepare / {name}: {spread(ratios)}")


def spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
