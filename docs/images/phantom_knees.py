"""Draws phantom_knees.png: one phantom film, and a region of interest of each KL grade.

python docs/images/phantom_knees.py
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from knee_jax.data.prepared import open_set
from knee_jax.ingest import dicom, film
from knee_jax.ingest.landmarks import read_landmarks
from knee_jax.landmarks import FEMUR, TIBIA
from knee_jax.phantom.study import write_study
from knee_jax.prepare import prepare

COLOURS = ((FEMUR, "#E69F00"), (TIBIA, "#56B4E9"))


def main() -> None:
    """Draws the picture beside this file."""
    figure = Figure(figsize=(10, 7.2), layout="constrained", facecolor="black")
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), num_subjects=1, visits=(0,), seed=4, progress=False)
        (path,) = Path(folder).glob("00m/*/*/*/*/001")
        radiograph = dicom.read_film(path)
        height, width = radiograph.pixels.shape
        size_mm = (width * radiograph.spacing_mm[0], height * radiograph.spacing_mm[1])
        low, high = film.intensity_window(radiograph.pixels)
        axes = above.subplots()
        axes.imshow(radiograph.pixels, cmap="gray", vmin=low, vmax=high, extent=(0, *size_mm, 0))
        for side in "RL":
            draw_landmarks(axes, read_landmarks(path, side, size_mm))
        axes.axis("off")

        knees = open_set(prepare("phantom_xray/tiny", folder))
        grade = knees.index["kl"].to_numpy()
        rows = np.array([np.flatnonzero(grade == kl)[1] for kl in range(5)])
        examples = knees.load(rows)
    panels = below.subplots(1, 5)
    for kl, axes in enumerate(panels):
        image = examples["image"][kl]
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, *image.shape, 0))
        draw_landmarks(axes, examples["keypoints"][kl])
        axes.set_title(f"KL {kl}", color="white")
        axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)


def draw_landmarks(axes, points: np.ndarray) -> None:
    """Dots at the landmarks, a colour a bone."""
    for bone, colour in COLOURS:
        axes.plot(*points[list(bone)].T, ".", color=colour, ms=2)


if __name__ == "__main__":
    main()
