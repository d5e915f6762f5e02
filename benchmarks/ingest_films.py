"""Films a second that the ingest turns into regions of interest, on one core, by transfer syntax.

    python benchmarks/ingest_films.py

Appends a row a syntax, and one for the phantom's mix, to `benchmarks/results/ingest_films.csv`.
"""

import argparse
import datetime
import platform
import tempfile
import time
from pathlib import Path

import cv2
import pandas as pd
import pydicom

from knee_jax.ingest.account import Dropped
from knee_jax.ingest.film import Roi
from knee_jax.ingest.study import plan_study
from knee_jax.phantom.study import write_study

RESULTS = Path(__file__).parent / "results" / "ingest_films.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--rows", type=int, default=2048)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_study(root, num_subjects=args.subjects, visits=(0,), rows=args.rows, progress=False)
        jobs, _, _ = plan_study(root, "phantom", Roi())
        jobs[0]()  # Loads the decoders.
        measured = [measure(root, job) for job in jobs]
    films = pd.DataFrame(measured)
    by_syntax = films.groupby("syntax")["seconds"].agg(["count", "mean"])
    by_syntax.loc["the phantom's mix"] = [len(films), films["seconds"].mean()]
    table = pd.DataFrame(
        {
            "date": datetime.date.today().isoformat(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "rows": args.rows,
            "syntax": by_syntax.index,
            "films": by_syntax["count"].astype(int).to_numpy(),
            "films_per_second": (1 / by_syntax["mean"]).round(1).to_numpy(),
        }
    )
    print(table.to_string(index=False))
    table.to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False)


def measure(root: Path, job) -> dict:
    """Runs a job; its film's syntax and the seconds it took."""
    start = time.perf_counter()
    knees = job()
    seconds = time.perf_counter() - start
    assert not any(isinstance(knee, Dropped) for knee in knees), knees
    header = pydicom.dcmread(root / knees[0]["source"], stop_before_pixels=True)
    return {"syntax": header.file_meta.TransferSyntaxUID.name, "seconds": seconds}


if __name__ == "__main__":
    main()
