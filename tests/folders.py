"""Readers of what a command has written to a folder, shared by the tests of several rooms."""

import json

import numpy as np


def contents(folder):
    """Return the bytes of every file by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def losses(workdir):
    """Return the training losses that a run has logged."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return np.array([row["train/loss"] for row in rows if "train/loss" in row])
