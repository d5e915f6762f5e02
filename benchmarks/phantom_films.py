"""Films a second that the phantom writes to disk, on one core.

    python benchmarks/phantom_films.py

Appends a row to `benchmarks/results/phantom_films.csv`.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from knee_jax.phantom.study import write_study

RESULTS = Path(__file__).parent / "results" / "phantom_films.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--rows", type=int, default=2048)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as warm:
        write_study(warm, num_subjects=1, visits=(0,), rows=256, progress=False)
    with tempfile.TemporaryDirectory() as root:
        wall, cpu = time.perf_counter(), time.process_time()
        knees = write_study(root, num_subjects=args.subjects, visits=(0,), rows=args.rows)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in Path(root).rglob("001"))
    films = knees["source"].nunique()
    row = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "rows": args.rows,
        "films": films,
        "megabytes": round(size / 1e6),
        "films_per_second": round(films / wall, 2),
        "films_per_cpu_second": round(films / cpu, 2),
    }
    print(pd.Series(row).to_string())
    RESULTS.parent.mkdir(exist_ok=True)
    pd.DataFrame([row]).to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False)


if __name__ == "__main__":
    main()
