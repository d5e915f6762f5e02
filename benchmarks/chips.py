"""Demands of a training step of each system on a TPU chip: compiled for eight, on a CPU.

    pip install -e '.[tpu]'
    python benchmarks/chips.py                        # all systems, v5e:2x4; about 15 CPU minutes
    python benchmarks/chips.py --systems=oarsi --topology=v5p:2x2x1

The step is that of training, in bfloat16. Operations are XLA's count and bytes those of
`knee_jax.training.hlo.traffic`; the times are those bytes and operations at the public peak rates
of each chip, so that no step can be faster. For chips other than the one compiled for they tell
what the same program would take. Rows are appended to `benchmarks/results/chips.csv`, and
`--table` prints those of the latest date as docs/explanation/performance.md has them.
"""

import argparse
import datetime
import importlib
import importlib.metadata
from pathlib import Path

import jax
import pandas as pd

from knee_jax.config import load
from knee_jax.errors import UserError
from knee_jax.models.layers import tracing_for
from knee_jax.training import dry_run, hlo, topologies

RESULTS = Path(__file__).parent / "results" / "chips.csv"

SYSTEMS = {
    "kpn": ((350, 350), 32),
    "oarsi": ((350, 350), 32),
    "siamese_gap": ((224, 224), 32),
    "mri_progression": ((176, 176, 80), 4),
}
"""Main config of each system → shape of a prepared knee, and knees a chip."""

SHOWN = ("v5e", "v5p", "h200")


def measured(system: str, topology: str) -> dict[str, object]:
    """Return the row of a system."""
    pixels, knees = SYSTEMS[system]
    of = topologies.of(topology)
    config = importlib.import_module(f"knee_jax.configs.{system}").get_config("")
    config.batch_size = config.evaluation.batch_size = knees * of.number
    with tracing_for(of.platform):
        run = dry_run.plan(load.parse(config), pixels, of)
    found = dry_run.numbers(run, pixels, of, inference=False)
    step = found["training"]
    reduced = step["collectives"].get("all-reduce", hlo.Collective(0, 0)._asdict())
    program = dry_run.Measured(
        step["flops"], step["traffic_bytes"], 0, 0, {"all-reduce": hlo.Collective(**reduced)}
    )
    row: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "system": system,
        "topology": topology,
        "knees_a_chip": knees,
        "parameters": found["parameters"],
        "state_mb": round(found["state_bytes"] / 1e6, 1),
        "memory_gb": round(step["memory_bytes"] / 1e9, 2),
        "tflop": round(step["flops"] / 1e12, 3),
        "traffic_gb": round(step["traffic_bytes"] / 1e9, 2),
        "all_reduces": reduced["number"],
        "all_reduce_mb": round(reduced["bytes"] / 1e6, 1),
        "others": " ".join(sorted(set(step["collectives"]) - {"all-reduce"})),
        "unexpected": "; ".join(step["unexpected"]),
    }
    for name in SHOWN:
        seconds = program.seconds(topologies.CHIPS[name], of.number)
        row[f"{name}_ms"] = round(1e3 * max(seconds.values()), 2)
        row[f"{name}_bound"] = max(seconds, key=lambda resource: seconds[resource])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    return row | versions


def table(rows: pd.DataFrame) -> str:
    """Return rows as a table of Markdown."""
    lines = [
        "| system | knees a chip | parameters | memory, GB | TFLOP | traffic, GB | FLOP a byte | "
        "all-reduces, MB | v5e, ms | v5p, ms | H200, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        times = " | ".join(f"{row[f'{name}_ms']:.1f} ({row[f'{name}_bound']})" for name in SHOWN)
        lines.append(
            f"| {row['system']} | {row['knees_a_chip']} | {row['parameters'] / 1e6:.1f} M | "
            f"{row['memory_gb']:.1f} | {row['tflop']:.2f} | {row['traffic_gb']:.1f} | "
            f"{1e3 * row['tflop'] / row['traffic_gb']:.0f} | {row['all_reduces']}, "
            f"{row['all_reduce_mb']:.0f} | {times} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--table", action="store_true", help="print the latest rows, and stop")
    options = parser.parse_args()
    known = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame()
    if options.table:
        print(table(known.drop_duplicates(["system", "topology"], keep="last")))
        return
    jax.config.update("jax_platforms", "cpu")
    for system in options.systems.split(","):
        try:
            row = measured(system, options.topology)
        except UserError as error:
            print(error)
            return
        known = pd.concat([known, pd.DataFrame([row])], ignore_index=True)
        known.to_csv(RESULTS, index=False)
        print(row)


if __name__ == "__main__":
    main()
