"""Films a second from DICOM files to grades: `knee-jax predict` beside a plain PyTorch script.

    python benchmarks/predict_films.py [--films=40] [--note="the machine is shared"]
    python benchmarks/predict_films.py --memory=1000

Both read the same uncompressed films of 2,048 rows with landmark files, cut both knees and grade
them by an EfficientNet-Lite0 of 224 px: ours the model that comes with the project, theirs timm's
of random weights, which takes as long. Theirs is what one writes in an hour: pydicom, OpenCV, and a
DataLoader with as many worker processes as ours. They take turns, three rounds, from the first
film's result on, so that neither start nor compiling counts. Ours also with the localiser in place
of landmark files, and with all that `predict` writes (pictures, evidence, JSON). `--memory` grades
films over and over, and tells the memory of the process along the way. Rows are appended to
`benchmarks/results/predict_films.csv`.
"""

import argparse
import datetime
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import torch

from knee_jax.inference import grade, models
from knee_jax.inference.predictor import Predictor
from knee_jax.ingest.sources import Source, find
from knee_jax.phantom.study import write_study

RESULTS = Path(__file__).parent / "results" / "predict_films.csv"
SIZE, ROUNDS, WORKERS, BATCH = 224, 3, 2, 16
MODEL = "kl-kneekl224"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--memory", type=int, default=0, help="films to grade for the memory")
    parser.add_argument("--note", default="", help="a word on the machine, for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = films(root / "films", args.films)
        rows = memory(paths, args.memory, root) if args.memory else speed(paths, root)
    common = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    table = pd.DataFrame([common | row | {"note": args.note} for row in rows])
    print(table.to_string(index=False))
    earlier = [pd.read_csv(RESULTS)] if RESULTS.exists() else []
    pd.concat([*earlier, table]).to_csv(RESULTS, index=False)


def films(root: Path, number: int) -> list[Path]:
    """Write phantom films with landmark files, decompressed, and return their paths."""
    write_study(root, num_subjects=number, visits=(0,), rows=2048, progress=False, workers=2)
    paths = [path.with_name(path.name.removesuffix("_f.pts")) for path in root.rglob("*_f.pts")]
    for path in paths:
        film = pydicom.dcmread(path)
        if film.file_meta.TransferSyntaxUID.is_compressed:
            film.decompress()
            film.save_as(path)
    return sorted(paths)


def speed(paths: list[Path], root: Path) -> list[dict]:
    """Return rows of films a second, median and range over the rounds."""
    predictor = models.load(MODEL)
    network = torch_network()
    bare = [root / f"bare{place}.dcm" for place in range(len(paths))]
    for path, link in zip(paths, bare, strict=True):
        link.hardlink_to(path)
    ways = {
        "knee_jax, grades": lambda: ours(predictor, paths),
        "PyTorch, grades": lambda: theirs(network, paths),
        "knee_jax, grades, by the localiser": lambda: ours(predictor, bare),
        "knee_jax, all that predict writes": lambda: ours(predictor, paths, out=root / "out"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(rate(way()))
    return [
        {
            "what": name,
            "films": len(paths),
            "films_per_second": round(float(np.median(rates)), 2),
            "low": round(min(rates), 2),
            "high": round(max(rates), 2),
        }
        for name, rates in found.items()
    ]


def rate(done: Iterator[int]) -> float:
    """Return films a second, from the first batch on."""
    number = 0
    while number < BATCH:
        number += next(done)
    start, number = time.perf_counter(), 0
    for films_done in done:
        number += films_done
    return number / (time.perf_counter() - start)


def ours(predictor: Predictor, paths: list[Path], out: Path | None = None) -> Iterator[int]:
    """Grade films, and yield 1 for each that is done."""
    reading = grade.reading_for(predictor, localise=True)
    sources: list[Source] = list(find(paths))
    if out is not None:
        for name in (grade.KNEES, grade.PICTURES):
            (out / name).mkdir(parents=True, exist_ok=True)
    reads = grade.placed(grade.read_all(sources, reading, WORKERS), reading)
    for _, rows in grade.rows_of(predictor, reads, out):
        assert [row["status"] for row in rows] == ["graded"] * 2, rows
        yield 1


class Films(torch.utils.data.Dataset):
    """Both knees of each film, as one would cut them: 1.27 plateaus about the plateau's middle."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        cv2.setNumThreads(1)
        path = self.paths[place]
        film = pydicom.dcmread(path)
        pixels = film.pixel_array.astype(np.float32)
        if film.PhotometricInterpretation == "MONOCHROME1":
            pixels = pixels.max() - pixels
        low, high = np.percentile(pixels, (5, 99))
        spacing = float(film.ImagerPixelSpacing[0])
        knees = []
        for side, suffix in (("R", "_f.pts"), ("L", ".pts")):
            lines = path.with_name(path.name + suffix).read_text().splitlines()
            points = np.array([line.split() for line in lines if line[:1].isdigit()], float)
            points /= spacing
            if side == "R":
                points[:, 0] = pixels.shape[1] - points[:, 0]
            ends = points[[47, 63]]
            half = 0.635 * np.linalg.norm(ends[1] - ends[0])
            x, y = ends.mean(0)
            corners = np.float32([[x - half, y - half], [x + half, y - half], [x - half, y + half]])
            goal = np.float32([[0, 0], [SIZE, 0], [0, SIZE]])
            knee = cv2.warpAffine(
                pixels, cv2.getAffineTransform(corners, goal), (SIZE, SIZE), flags=cv2.INTER_AREA
            )
            knee = np.float32(np.clip((knee - low) / (high - low), 0, 1))
            knees.append(knee[:, ::-1].copy() if side == "L" else knee)
        return torch.from_numpy(np.stack(knees))


def torch_network() -> torch.nn.Module:
    """Return timm's EfficientNet-Lite0 with five classes."""
    # The folder of the tests is no package that is installed.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.models import torch_reference

    network = torch_reference.from_timm("tf_efficientnet_lite0", 5, in_chans=1)
    return network.float().eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def theirs(network: torch.nn.Module, paths: list[Path]) -> Iterator[int]:
    """Grade films in batches of as many knees as ours, and yield the number of each."""
    # A fork of a process that runs JAX may stand still.
    loader = torch.utils.data.DataLoader(
        Films(paths), batch_size=BATCH, num_workers=WORKERS, multiprocessing_context="spawn"
    )
    for films_read in loader:
        knees = films_read.reshape(-1, 1, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        probabilities = network(knees).softmax(1).numpy()
        assert np.isfinite(probabilities).all()
        yield len(films_read)


def memory(paths: list[Path], number: int, root: Path) -> list[dict]:
    """Return rows of the memory of this process, after each tenth of some films, MiB."""
    predictor = models.load(MODEL)
    rows, done = [], 0
    while done < number:
        for each in ours(predictor, paths, out=root / "out"):
            done += each
            if done % max(1, number // 10) == 0:
                rows.append({"what": "memory of the process", "films": done, "mib": resident()})
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    return [*rows, {"what": "memory of a worker at most", "films": done, "mib": worker}]


def resident() -> int:
    """Return the memory that this process holds, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


if __name__ == "__main__":
    main()
