"""Cost of the networks of progression: parameters, operations, time for one knee (CPU or GPU).

    python benchmarks/compute_table.py                 # parameters and operations, paper | ours
    python benchmarks/compute_table.py --time          # and milliseconds, of small networks
    python benchmarks/compute_table.py --time --full   # and milliseconds, of the paper's: a GPU

The results are compared with the printed numbers of Panfilov et al. 2022, Table 1. Parameters and
multiply-accumulates (half the operations that XLA counts in its input program) are those of the
full networks, which are traced with abstract values: no weights are made. The paper counts with
`thop`, which also counts products with the zeros around an image, and none of the attention's own.
Its times are those of an RTX 2080 Ti; ours are the median over repeated runs of one knee that is on
the device.
"""

import argparse
import os
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax import models

SAGITTAL, CORONAL, AXIAL = (64, 160, 160, 1), (80, 160, 128, 1), (80, 160, 128, 1)
SMALL_SLICES = {"depth": 18, "width": 8, "embedding": 64, "heads": 4, "blocks": 2}
SMALL_3D = {"width": 16}
ROWS = {
    "X-ray": ("resnext", (350, 350, 3), {}, {"width": 8}, (11, 24, 12.9)),
    "2D + FC": (
        *("slice_sequence", SAGITTAL, {"aggregation": "linear"}, SMALL_SLICES),
        (134, 91, 28.6),
    ),
    "2D + Bi-LSTM": (
        *("slice_sequence", SAGITTAL, {"aggregation": "lstm"}, SMALL_SLICES),
        (135, 29, 36.6),
    ),
    "2D + TRF, sagittal": ("slice_sequence", SAGITTAL, {}, SMALL_SLICES, (141, 133, 31.1)),
    "2D + TRF, coronal": ("slice_sequence", CORONAL, {}, SMALL_SLICES, (143, 133, 32.8)),
    "2D + TRF, axial": ("slice_sequence", AXIAL, {}, SMALL_SLICES, (143, 133, 33.3)),
    "2Dsh + TRF": (
        *("slice_sequence", SAGITTAL, {"views": "shared"}, SMALL_SLICES),
        (443, 133, 74.8),
    ),
    "2Dind + TRF": (
        *("slice_sequence", SAGITTAL, {"views": "individual"}, SMALL_SLICES),
        (443, 180, 73.3),
    ),
    "(2+1)D": ("volumetric", SAGITTAL, {"arch": "r2plus1d_34"}, SMALL_3D, (100, 64, 21.3)),
    "3D ResNeXt-50": ("volumetric", SAGITTAL, {"arch": "resnext3d_50"}, SMALL_3D, (21, 26, 23.6)),
    "3D ShuffleNet": ("volumetric", SAGITTAL, {"arch": "shufflenet3d"}, SMALL_3D, (4, 1, 45.0)),
}
"""Network, shape of a knee, attributes, additional attributes of the small network, and the paper's
10^9 multiply-accumulates, 10^6 parameters and milliseconds, by row.
"""


def cost(model, shape) -> tuple[int, float]:
    """Return parameters, and multiply-accumulates of one forward pass; nothing is allocated."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    # On the CPU grouped convolutions are computed as dense ones, mostly with zeros.
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        lowered = jax.jit(model.apply).lower(variables, image)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return parameters, lowered.cost_analysis()["flops"] / 2


def milliseconds(model, shape, rounds: int) -> float:
    """Return the median time of one forward pass, in evaluation, with random weights."""
    rng = np.random.default_rng(0)
    image = jax.device_put(rng.normal(size=(1, *shape)).astype(np.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    # Compiling `init` would take longer than everything else.
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-2, leaf.dtype), shapes)
    apply = jax.jit(model.apply)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(apply(variables, image))
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="also measure time")
    parser.add_argument("--full", action="store_true", help="... of the paper's networks")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    args = parser.parse_args()
    table = []
    for row in args.rows:
        name, shape, attributes, small, (macs, millions, paper_ms) = ROWS[row]
        parameters, ours = cost(models.create(name, dtype=args.dtype, **attributes), shape)
        cells = {
            "model": row,
            "parameters": parameters,
            "params 1e6": f"{millions} | {parameters / 1e6:.1f}",
            "MACs 1e9": f"{macs} | {ours / 1e9:.1f}",
        }
        if args.time:
            if not args.full:
                attributes = {**attributes, **small}
                shape = (*(side // 2 for side in shape[:-1]), shape[-1])
            model = models.create(name, dtype=args.dtype, **attributes)
            measured = milliseconds(model, shape, args.rounds)
            cells["ms"] = f"{paper_ms} | {measured:.1f}" if args.full else f"{measured:.1f} (small)"
        table.append(cells)
    device = jax.devices()[0]
    print(f"{device.device_kind}, {args.dtype}, {os.getloadavg()[0]:.1f} processes busy")
    print(pd.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
