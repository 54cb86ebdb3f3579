"""What `import recbole_prism` adds to `import recbole.quick_start`: seconds of CPU, medians of interleaved processes.

python benchmarks/import_time.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

CURES = """
import sys, types, numpy as np
for name, new in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    name in np.__dict__ or setattr(np, name, new)
ray, ray.tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
sys.modules.update({"ray": ray, "ray.tune": ray.tune})
"""
RECBOLE = CURES + "import recbole.quick_start"
BOTH = CURES + "import recbole_prism, recbole.quick_start"
TIMED = "\nimport time; print(time.process_time())"


def seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code + TIMED], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    pairs = [(seconds(RECBOLE), seconds(BOTH)) for _ in range(runs + 1)][1:]  # the first warms the file cache
    alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    added = [b - a for a, b in pairs]
    print(f"import recbole.quick_start: {alone:.2f} s; with recbole_prism: {both:.2f} s")
    print(f"added: median {statistics.median(added):.2f} s ({min(added):.2f} to {max(added):.2f}, {runs} pairs)")


if __name__ == "__main__":
    main()
