"""`knee-jax serve` under load: a film at a time, many at once, then a steady stream.

    python benchmarks/serve_load.py [--films=12 --at_once=50 --seconds=300 --rate=1 --kill_every=0]

Phantom films of 2048 rows are graded by `knee-jax predict` first, and every answer of the server is
compared with its rows: none may be lost, and none be another film's. With --kill_every=S a process
that reads films is killed every S seconds of the stream: its request gets an answer or an error,
and nobody gets another's. Memory is that of the server and its readers. Rows are appended to
benchmarks/results/serve_load.csv.
"""

import argparse
import collections
import contextlib
import csv
import datetime
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests

from knee_jax.phantom.study import write_study

RESULTS = Path(__file__).parent / "results" / "serve_load.csv"

COLUMNS = (
    *("date", "what", "sent", "answered", "others_rows", "median_s", "p99_s", "films_per_s"),
    *("read_s", "place_s", "grade_s", "explain_s", "killed"),
    *("server_mib_first_quarter", "server_mib_last_quarter", "all_mib_most"),
)

MOST_DIFFERENCE = 1e-5
"""Difference of a probability by which batches of other sizes may round."""


def phantom_films(folder: Path, number: int) -> list[Path]:
    """Write so many bilateral films, each of a name of its own."""
    write_study(folder / "study", num_subjects=number, visits=(0,), rows=2048, progress=False)
    films = []
    for path in sorted((folder / "study").rglob("001")):
        films.append(folder / "films" / f"film_{len(films):02d}.dcm")
        films[-1].parent.mkdir(exist_ok=True)
        films[-1].write_bytes(path.read_bytes())
    return films


def predicted(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Grade the films by `knee-jax predict`; return the rows of each."""
    out = folder / "predicted"
    words = ["predict", str(folder / "films"), f"--out={out}", "--workers=1"]
    subprocess.run([sys.executable, "-m", "knee_jax", *words], check=True, capture_output=True)
    rows = collections.defaultdict(list)
    for row in pd.read_csv(out / "predictions.csv").to_dict("records"):
        rows[str(row["file"])].append(row)
    return rows


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """Start the server; yield its address and number of process, once it is ready."""
    with open(folder / "log.jsonl", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "knee_jax", "serve", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            while requests.get(f"{address}/ready", timeout=30).status_code != 200:
                time.sleep(0.5)
            yield address, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            print(f"the server ended with status {process.wait(30)}")


def descendants(root: int) -> list[int]:
    """Return a process and all that it has started."""
    children = collections.defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(") ")[2].split()[1]
                children[int(parent)].append(int(entry.name))
    found = [root]
    for process in found:
        found += children[process]
    return found


def memory(root: int) -> dict[int, float]:
    """Return the memory of its own of each of these processes, MiB."""
    found = {}
    for process in descendants(root):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text()
            sizes = re.findall(r"Private_(?:Clean|Dirty): +(\d+)", lines)
            found[process] = sum(map(int, sizes)) / 1024
    return found


def send(address: str, film: Path) -> tuple[Path, float, int, list[dict[str, Any]]]:
    """Send a film; return it with the time, the status and the rows of its answer."""
    begin = time.perf_counter()
    with film.open("rb") as file:
        answer = requests.post(
            f"{address}/predict", files={"files": (film.name, file)}, timeout=300
        )
    seconds = time.perf_counter() - begin
    return film, seconds, answer.status_code, answer.json().get("rows", [])


def differs(rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> bool:
    """Return whether an answer is not that of `knee-jax predict`."""
    if [(r["file"], r["side"], r["status"]) for r in rows] != [
        (r["file"], r["side"], r["status"]) for r in expected
    ]:
        return True
    return any(
        row["kl_pred"] != wanted["kl_pred"]
        or max(abs(row[f"kl_p{c}"] - wanted[f"kl_p{c}"]) for c in range(5)) > MOST_DIFFERENCE
        for row, wanted in zip(rows, expected, strict=True)
        if row["status"] == "graded"
    )


def account(name: str, answers: Sequence[Any], expected: Any, **more: Any) -> dict[str, Any]:
    """Return and print what became of some films."""
    seconds = np.array([each[1] for each in answers])
    good = [each for each in answers if each[2] == 200]
    row = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "what": name,
        "sent": len(answers),
        "answered": len(good),
        "others_rows": sum(differs(each[3], expected[each[0].name]) for each in good),
        "median_s": round(float(np.median(seconds)), 3),
        "p99_s": round(float(np.quantile(seconds, 0.99)), 3),
        **more,
    }
    print(row, flush=True)
    return row


def stages(address: str) -> dict[str, float]:
    """Return the seconds spent in each stage so far."""
    text = requests.get(f"{address}/metrics", timeout=30).text
    found = re.findall(r'knee_jax_stage_seconds_sum\{stage="(\w+)"\} (\S+)', text)
    return {stage: float(value) for stage, value in found}


def stream(address: str, root: int, films: Sequence[Path], args: argparse.Namespace) -> Any:
    """Send films at a steady rate, and look at the memory all the while."""
    ended, sizes, killed = threading.Event(), [], 0

    def watch() -> None:
        while not ended.wait(2):
            sizes.append(memory(root))

    def kill() -> int:
        """Kill a process that reads films: of the children's children, those that grow."""
        readers = [p for p in descendants(root)[1:] if memory(root).get(p, 0) > 20]
        if readers:
            with contextlib.suppress(OSError):
                os.kill(readers[-1], signal.SIGKILL)
        return len(readers) > 0

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(64) as threads:
        begin, sent, next_kill = time.monotonic(), [], args.kill_every or np.inf
        for number in range(int(args.seconds * args.rate)):
            due = begin + number / args.rate
            time.sleep(max(0.0, due - time.monotonic()))
            sent.append(threads.submit(send, address, films[number % len(films)]))
            if time.monotonic() - begin > next_kill:
                killed += kill()
                next_kill += args.kill_every
        answers = [each.result() for each in sent]
    ended.set()
    watcher.join()
    of_server = [each[root] for each in sizes]
    quarter = max(1, len(sizes) // 4)
    return answers, {
        "killed": killed,
        "server_mib_first_quarter": round(float(np.mean(of_server[:quarter]))),
        "server_mib_last_quarter": round(float(np.mean(of_server[-quarter:]))),
        "all_mib_most": round(max(sum(each.values()) for each in sizes)),
    }


def main() -> None:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--at_once", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--kill_every", type=float, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = phantom_films(folder, args.films)
        expected = predicted(folder)
        with server(folder) as (address, root):
            send(address, films[0])
            before = stages(address)
            alone = [send(address, films[i % len(films)]) for i in range(20)]
            spent = {
                f"{name}_s": round((seconds - before[name]) / len(alone), 3)
                for name, seconds in stages(address).items()
            }
            rows = [account("one film at a time", alone, expected, **spent)]
            with ThreadPoolExecutor(args.at_once) as threads:
                begin = time.perf_counter()
                many = [films[i % len(films)] for i in range(args.at_once)]
                burst = list(threads.map(lambda film: send(address, film), many))
                rate = round(len(burst) / (time.perf_counter() - begin), 2)
            rows.append(account(f"{args.at_once} at once", burst, expected, films_per_s=rate))
            if args.seconds:
                answers, more = stream(address, root, films, args)
                what = f"{args.rate:g} a second for {args.seconds:g} s"
                rows.append(account(what, answers, expected, **more))
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
