"""What commands leave in folders, as tests of several rooms look at it."""

import json

import numpy as np


def contents(folder):
    """The bytes of every file by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def losses(workdir):
    """The training losses that a run has logged."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return np.array([row["train/loss"] for row in rows if "train/loss" in row])
