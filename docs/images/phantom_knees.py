"""Draws phantom_knees.png: films and regions of interest of each KL grade, of both phantom cohorts.

python docs/images/phantom_knees.py
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from knee_jax.data.prepared import open_set
from knee_jax.datasets.prepare import prepare
from knee_jax.ingest import dicom, film
from knee_jax.ingest.landmarks import read_landmarks
from knee_jax.landmarks import FEMUR, TIBIA
from knee_jax.phantom.study import write_study

COLOURS = ((FEMUR, "#E69F00"), (TIBIA, "#56B4E9"))
COHORTS = (("oai", "phantom_xray/tiny", 4), ("most", "phantom_most/tiny", 0))
"""Layout, prepared set, seed of the film that is shown."""


def main() -> None:
    """Draws the picture beside this file."""
    figure = Figure(figsize=(10, 10.4), layout="constrained", facecolor="black")
    above, *below = figure.subfigures(3, 1, height_ratios=(1.7, 1, 1))
    with tempfile.TemporaryDirectory() as folder:
        for (study, name, seed), axes, part in zip(COHORTS, above.subplots(1, 2), below):
            draw_film(axes, Path(folder) / study, study, seed)
            draw_grades(part, prepare(name, folder))
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)


def draw_film(axes, root: Path, study: str, seed: int) -> None:
    """One film with the landmarks of its two knees."""
    knees = write_study(
        root, num_subjects=1, visits=(0,), seed=seed, study=study, rows=1024, progress=False
    )
    source = knees["source"].iloc[0]
    radiograph = dicom.read_film(root / source)
    height, width = radiograph.pixels.shape
    size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
    low, high = film.intensity_window(radiograph.pixels)
    axes.imshow(radiograph.pixels, cmap="gray", vmin=low, vmax=high, extent=(0, *size_mm, 0))
    for side in "RL":
        draw_landmarks(axes, read_landmarks(root, source, side, size_mm[0]))
    axes.set_title(f"laid out as {study.upper()}'s", color="white")
    axes.axis("off")


def draw_grades(part, folder: Path) -> None:
    """A region of interest of each KL grade."""
    knees = open_set(folder)
    grade = knees.index["kl"].to_numpy()
    examples = knees.load(np.array([np.flatnonzero(grade == kl)[1] for kl in range(5)]))
    for kl, axes in enumerate(part.subplots(1, 5)):
        image = examples["image"][kl]
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, *image.shape, 0))
        draw_landmarks(axes, examples["keypoints"][kl])
        axes.set_title(f"KL {kl}", color="white")
        axes.axis("off")


def draw_landmarks(axes, points: np.ndarray) -> None:
    """Dots at the landmarks, a colour a bone."""
    for bone, colour in COLOURS:
        axes.plot(*points[list(bone)].T, ".", color=colour, ms=2)


if __name__ == "__main__":
    main()
