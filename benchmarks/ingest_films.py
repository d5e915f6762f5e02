"""Films a second that the ingest turns into regions of interest, by transfer syntax and workers.

    python benchmarks/ingest_films.py [--note="the machine is shared"]

Films of 2,048 rows as plain DICOM and in each compression, by the time of one core; then the plain
ones through the worker processes of a preparation, one and two, by the clock. Appends to
`benchmarks/results/ingest_films.csv` a row for each; `worker_mib` is the most memory that a worker
has held.
"""

import argparse
import datetime
import functools
import platform
import resource
import tempfile
import time
from pathlib import Path

import cv2
import pandas as pd
import pydicom

from knee_jax.ingest import pool
from knee_jax.ingest.film import Roi
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.study import FilmJob, plan_study
from knee_jax.phantom.study import write_study

RESULTS = Path(__file__).parent / "results" / "ingest_films.csv"


PLAIN = ("Explicit VR Little Endian", "Implicit VR Little Endian")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--note", default="", help="a word on the machine, for the table")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_study(root, num_subjects=args.subjects, visits=(0,), rows=args.rows, progress=False)
        jobs, _, _ = plan_study(root, "phantom", Roi())
        jobs[0]()  # Loads the decoders.
        films = pd.DataFrame([measure(root, job) for job in jobs])
        plain = [job for job, syntax in zip(jobs, films["syntax"]) if syntax in PLAIN]
        through_pool = [measure_pool(plain * 4, workers) for workers in (1, 2)]
    by_syntax = films.groupby("syntax")["seconds"].agg(["count", "mean"])
    by_syntax.loc["the phantom's mix"] = [len(films), films["seconds"].mean()]
    rows = [
        {"syntax": syntax, "films": int(row["count"]), "films_per_second": 1 / row["mean"]}
        for syntax, row in by_syntax.iterrows()
    ]
    common = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rows": args.rows,
    }
    table = pd.DataFrame([common | row | {"note": args.note} for row in rows + through_pool])
    table["films_per_second"] = table["films_per_second"].round(1)
    print(table.to_string(index=False))
    earlier = [pd.read_csv(RESULTS)] if RESULTS.exists() else []
    whole = pd.concat([*earlier, table]).astype({"workers": "Int64", "worker_mib": "Int64"})
    whole.to_csv(RESULTS, index=False)


def measure(root: Path, job: FilmJob) -> dict:
    """Run a job; return the syntax of its film and the seconds of a core that it took."""
    # Not those of the clock: other work on the machine would count.
    start = time.process_time()
    knees = job()
    seconds = time.process_time() - start
    assert not any(isinstance(knee, Exclusion) for knee in knees), knees
    header = pydicom.dcmread(root / knees[0]["source"], stop_before_pixels=True)
    return {"syntax": header.file_meta.TransferSyntaxUID.name, "seconds": seconds}


def measure_pool(jobs: list[FilmJob], workers: int) -> dict:
    """Return the films per second through worker processes, from the first result on."""
    results = pool.run_in_order([functools.partial(in_worker, job) for job in jobs], workers, 120)
    memory = [next(results)]
    start = time.perf_counter()
    memory += results
    seconds = time.perf_counter() - start
    return {
        "syntax": "uncompressed, through the workers",
        "films": len(jobs),
        "films_per_second": (len(jobs) - 1) / seconds,
        "workers": workers,
        "worker_mib": max(memory),
    }


def in_worker(job: FilmJob) -> int:
    """Run a job; return the peak memory of its process, MiB."""
    knees = job()
    assert not any(isinstance(knee, Exclusion) for knee in knees), knees
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
