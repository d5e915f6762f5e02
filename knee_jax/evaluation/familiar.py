"""Features of the knees that a finished run was trained and chosen on, for `inference.novelty`."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from knee_jax.data.prepared import PreparedSet, find_prepared
from knee_jax.inference import novelty
from knee_jax.inference import run as runs

MOST = 1500
"""Training knees that are looked at, evenly spaced."""

BATCH_SIZE = 32


def measure(run: Path, data_dir: Path) -> novelty.Novelty | None:
    """Measure the features of a run's training and validation knees.

    Args:
        run: Folder of the run.
        data_dir: Folder of prepared sets.

    Returns:
        Description of them; None where the run's prepared set is not there, or was prepared anew,
        where it has too few knees, or where the network does not expose its features.
    """
    network = runs.read(run)
    if not (run / "knees.csv").is_file() or not network.shows_features():
        return None
    knees = pd.read_csv(run / "knees.csv", dtype=str, keep_default_na=False)
    parts = [knees[knees["part"] == part] for part in ("train", "validation")]
    prepared = find_prepared(
        data_dir / network.config.data.dataset, set(parts[0]["prepared"].unique())
    )
    if prepared is None or min(map(len, parts)) < novelty.LEAST:
        return None
    chosen = (
        part.iloc[np.linspace(0, len(part) - 1, min(len(part), MOST)).astype(int)] for part in parts
    )
    rows = [np.sort(prepared.find(part)) for part in chosen]
    return novelty.fit(*(_features(network, prepared, part) for part in rows))


def _features(network: runs.Network, prepared: PreparedSet, rows: np.ndarray) -> np.ndarray:
    function = jax.jit(network.features)
    found = []
    for first in tqdm(
        range(0, len(rows), BATCH_SIZE), desc="features", unit="batch", mininterval=1
    ):
        chunk = rows[first : first + BATCH_SIZE]
        # Filled up with the last knee, so that one program serves every batch.
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], BATCH_SIZE - len(chunk))])
        knees = prepared.load(filled)
        batch = {name: knees[name] for name in (prepared.pixels, "keypoints") if name in knees}
        found.append(np.asarray(function(network.variables, batch))[: len(chunk)])
    return np.concatenate(found)
