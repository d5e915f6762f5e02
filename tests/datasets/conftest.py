"""Ready crops as `kneekl224` lays them out, of noise."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_crops(tmp_path) -> Callable[[int], Path]:
    """Writes so many crops, two of three for training, and one file that is none."""

    def write(number):
        root = tmp_path / "raw"
        rng = np.random.default_rng(0)
        for crop in range(number):
            folder = root / ("train", "val")[crop % 3 == 0] / str(crop % 5)
            folder.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (224, 224), np.uint8)
            cv2.imwrite(str(folder / f"{9000000 + crop}R.png"), image)
        (root / "train/0/9100000L.png").write_text("text")
        return root

    return write
