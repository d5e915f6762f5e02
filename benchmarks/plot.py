"""Plot what `train_step.py` measured: our seconds by those of PyTorch, for each network.

    python benchmarks/plot.py [--out=benchmarks.png]

One panel for training and one for inference on each kind of hardware, with the newest row of each
network, size, batch and type. Below 1 ours is the faster; in brackets, both rates.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results"
TABLES = {"training": "train_step.csv", "inference": "inference.csv"}
KEY = ["net", "size", "batch", "dtype"]


def newest() -> dict[tuple[str, str], pd.DataFrame]:
    """Return the newest rows of each kind of measurement and hardware."""
    found = {}
    for kind, name in TABLES.items():
        if not (RESULTS / name).exists():
            continue
        table = pd.read_csv(RESULTS / name)
        for hardware, rows in table.groupby("hardware"):
            found[kind, str(hardware)] = rows.groupby(KEY, as_index=False).last()
    return found


def draw(axes: plt.Axes, rows: pd.DataFrame, title: str) -> None:
    """Draw a bar for each row: how many times PyTorch's seconds ours are."""
    for place, row in enumerate(rows.itertuples()):
        axes.barh(place, row.ratio, color="#0072b2", height=0.6)
        rates = f"{row.batch / row.ours_s:.3g} and {row.batch / row.torch_s:.3g} images a second"
        axes.text(row.ratio, place, f" {row.ratio:.2f} ({rates})", va="center", fontsize=8)
    names = [
        f"{row.net}, {row.size} px, batch {row.batch}, {row.dtype}" for row in rows.itertuples()
    ]
    axes.set_yticks(np.arange(len(rows)), names, fontsize=8)
    axes.axvline(1, color="#d55e00")
    axes.set(title=title, xlim=(0, 1.6 * max(rows["ratio"].max(), 1)))
    axes.invert_yaxis()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks.png")
    out = parser.parse_args().out
    panels = newest()
    heights = [len(rows) + 1 for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(11, 0.35 * sum(heights) + 1),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for (panel, (kind, hardware)), rows in zip(enumerate(panels), panels.values()):
        draw(axes[panel, 0], rows, f"{kind}, {hardware}")
    figure.savefig(out, dpi=100)
    print(out)


if __name__ == "__main__":
    main()
