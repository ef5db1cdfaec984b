"""How long `mixc --help` takes, as a whole process: the median of several runs.

python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def main(runs: int) -> None:
    seconds = []
    for _ in range(runs + 1):  # the first warms the page cache and is not counted
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mixc", "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    print(f"mixc --help: median {statistics.median(seconds[1:]):.3f} s, worst {max(seconds[1:]):.3f} s of {runs} runs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
