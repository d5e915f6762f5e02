"""Seconds of one training step or prediction, ours against the same network in PyTorch.

    python benchmarks/train_step.py --net=resnet18 --size=112 --batch=32
    python benchmarks/train_step.py --net=kpn_resnet50 --size=320 --batch=48 --dtype=bfloat16  # GPU
    python benchmarks/train_step.py --net=se_resnext50_32x4d --size=300 --batch=8 --compile
    python benchmarks/train_step.py --net=siamese_gap --size=299 --batch=32 --rounds=3
    python benchmarks/train_step.py --net=resnet18 --size=112 --batch=1 --inference

Both train on the same random batch with Adam, or predict it with --inference, in turns within one
process, so that other load on the machine affects both; PyTorch's arrays are channels-last. `kpn_*`
stops after the third stage and reads it at 30 landmarks; the reference of `se_*` and
`efficientnet_lite0` is timm's; `siamese_gap` predicts one target. `--compile` passes the reference
to `torch.compile`, where that works; the row says whether it did, and how busy the machine was
before, in number of runnable processes. On a busy machine the processors' time, `..._cpu_s`, is the
fairer measure, on one core (`taskset -c 0`), since PyTorch's threads spin while waiting for each
other. On an NVIDIA GPU the row also has the peak memory of both sides, and the ratio of the step's
operations, as XLA counts them, to what the card's matrix units could have done in that time. A row
is appended to `benchmarks/results/train_step.csv`, or to `inference.csv`. On glibc,
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 spares both sides most of the page faults; the row says
whether it was set.
"""

import argparse
import datetime
import os
import platform
import re
import time
from pathlib import Path

# On a GPU both sides share the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import optax
import pandas as pd

from knee_jax import landmarks, models, targets
from knee_jax.targets.grades import GRADES

RESULTS = Path(__file__).parent / "results"
TIMM = {"se_resnet50": "legacy_seresnet50", "se_resnext50_32x4d": "legacy_seresnext50_32x4d"}
OTHERS = ("siamese_gap", "efficientnet_lite0")
MATRIX_RATES = {
    "H100": {"bfloat16": 989e12, "float32": 495e12},
    "H200": {"bfloat16": 989e12, "float32": 495e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
    "L4": {"bfloat16": 121e12, "float32": 60e12},
}
"""Operations per second of a card's matrix units without sparsity, by its data sheet (float32:
TF32, which both sides use for convolutions by default).
"""


def ours(net: str, dtype: str, inference: bool, image, keypoints, labels):
    """Return a function that trains one step or predicts, and waits for it, and its operations."""
    if net in TIMM:
        model = models.create("senet", arch=net, dtype=dtype)
    elif net == "efficientnet_lite0":
        model = models.create("efficientnet", dropout=0.0, dtype=dtype)
    elif net == "siamese_gap":
        model = models.create(net, dropout=0.0, dtype=dtype)
    else:
        name = "keypoint_pooling" if net.startswith("kpn_") else "resnet"
        model = models.create(name, depth=int(net[-2:]), dtype=dtype)
    variables = jax.jit(model.init)(jax.random.key(0), image[:1], keypoints[:1])
    if inference:
        batch = jax.device_put((image, keypoints))
        apply = jax.jit(model.apply)
        operations = (apply.lower(variables, *batch).cost_analysis() or {}).get("flops")
        return lambda: jax.block_until_ready(apply(variables, *batch)), operations

    optimiser = optax.adam(1e-4)
    state = (variables, optimiser.init(variables["params"]))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def step(variables, moments, image, keypoints, labels):
        def loss(params):
            logits, statistics = model.apply(
                {**variables, "params": params}, image, keypoints, True, mutable=["batch_stats"]
            )
            return sum(cross_entropy(x, labels).mean() for x in logits.values()), statistics

        gradients, statistics = jax.grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimiser.update(gradients, moments)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **statistics}, moments

    step = jax.jit(step, donate_argnums=(0, 1))
    batch = jax.device_put((image, keypoints, labels))
    operations = (step.lower(*state, *batch).cost_analysis() or {}).get("flops")

    def run():
        nonlocal state
        state = jax.block_until_ready(step(*state, *batch))

    return run, operations


def theirs(net: str, dtype: str, inference: bool, compile_it: bool, image, keypoints, labels):
    """Return the same in PyTorch, and whether it is compiled; without torchvision's operators."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.models import torch_reference as reference
    from tests.models.torch_reference import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kpn, points = net.startswith("kpn_"), landmarks.PRESETS["joint"]
    names = ("kl0_vs_kl2",) if net == "siamese_gap" else GRADES
    classes = [target.num_outputs for target in targets.get_all(names)]
    outputs = sum(classes)
    if net == "siamese_gap":
        trunk = reference.SiameseGAP()
    elif net == "efficientnet_lite0":
        trunk = reference.from_timm(f"tf_{net}", outputs, in_chans=1, drop_rate=0.0).train()
    elif net in TIMM:
        trunk = reference.from_timm(TIMM[net], outputs, in_chans=1, drop_rate=0.0).train()
    else:
        trunk = reference.resnet(int(net[-2:]), channels=1).train()
        width = trunk.fc.in_features // (2 if kpn else 1) * (len(points) if kpn else 1)
        trunk.fc = torch.nn.Linear(width, outputs)
    if kpn:
        trunk.layer4 = torch.nn.Identity()
    trunk = trunk.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(trunk.parameters(), 1e-4)
    x = reference.to_torch(image).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long().to(device)
    grid = torch.from_numpy(keypoints[:, points] / image.shape[1] * 2 - 1)[:, None].to(device)

    def forward():
        if not kpn:
            return trunk(x)
        features = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
        features = trunk.layer3(trunk.layer2(trunk.layer1(features))).float()
        pooled = torch.nn.functional.grid_sample(
            features, grid, padding_mode="border", align_corners=False
        )
        return trunk.fc(pooled.flatten(1))

    forward_now = forward

    def predict():
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            forward_now()
        if device == "cuda":
            torch.cuda.synchronize()

    def train():
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward_now().float().split(classes, dim=1)
        sum(torch.nn.functional.cross_entropy(x, y) for x in logits).backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    run = predict if inference else train
    trunk.train(not inference)
    if compile_it:
        forward_now = torch.compile(forward)
        try:
            run()
        except Exception as error:
            print(f"torch.compile does not work here: {str(error).strip().splitlines()[0]}")
            compile_it, forward_now = False, forward

    def peak_gib():
        return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None

    return run, peak_gib, compile_it, torch.__version__


def hardware() -> str:
    """Return the name of the accelerator, or of the processor with its number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    name = found[1] if found else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    nets = [kind + f"resnet{depth}" for kind in ("", "kpn_") for depth in (18, 34, 50)]
    parser.add_argument("--net", default="resnet18", choices=[*nets, *TIMM, *OTHERS])
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inference", action="store_true", help="predict instead of training")
    parser.add_argument("--compile", action="store_true", help="torch.compile the reference")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 1)
    image = rng.normal(size=shape).astype(np.float32)
    keypoints = rng.uniform(0, args.size, (args.batch, 74, 2)).astype(np.float32)
    labels = rng.integers(0, 2 if args.net == "siamese_gap" else 4, args.batch).astype(np.int32)
    batch = (image, keypoints, labels)
    busy = round(os.getloadavg()[0], 1)
    run_ours, operations = ours(args.net, args.dtype, args.inference, *batch)
    run_theirs, torch_peak, compiled, torch_version = theirs(
        args.net, args.dtype, args.inference, args.compile, *batch
    )

    seconds: dict[str, list[float]] = {"ours": [], "torch": [], "ours_cpu": [], "torch_cpu": []}
    for _ in range(args.rounds + 1):
        for side, run in (("ours", run_ours), ("torch", run_theirs)):
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            seconds[side].append(time.perf_counter() - start)
            seconds[f"{side}_cpu"].append(time.process_time() - start_cpu)
    ours_s, torch_s, ours_cpu_s, torch_cpu_s = (
        float(np.median(values[1:])) for values in seconds.values()
    )
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    torch_memory = torch_peak()
    rates = [rate for card, rate in MATRIX_RATES.items() if card in jax.devices()[0].device_kind]
    possible = rates[0][args.dtype] if rates and operations else None
    row = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "net": args.net,
        "size": args.size,
        "batch": args.batch,
        "dtype": args.dtype,
        "hugetlb": "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", ""),
        "ours_s": round(ours_s, 4),
        "torch_s": round(torch_s, 4),
        "ratio": round(ours_s / torch_s, 2),
        "ours_images_per_s": round(args.batch / ours_s, 1),
        "ours_first_s": round(seconds["ours"][0], 1),
        "ours_peak_gib": round(memory / 2**30, 2) if memory else None,
        "rounds": args.rounds,
        "jax": jax.__version__,
        "torch": torch_version,
        "torch_compiled": compiled,
        "torch_images_per_s": round(args.batch / torch_s, 1),
        "torch_peak_gib": round(torch_memory, 2) if torch_memory else None,
        "ours_of_matrix_rate": round(operations / ours_s / possible, 3) if possible else None,
        "torch_of_matrix_rate": round(operations / torch_s / possible, 3) if possible else None,
        "ours_cpu_s": round(ours_cpu_s, 4),
        "torch_cpu_s": round(torch_cpu_s, 4),
        "ratio_cpu": round(ours_cpu_s / torch_cpu_s, 2),
        "busy": busy,
    }
    RESULTS.mkdir(exist_ok=True)
    table = RESULTS / ("inference.csv" if args.inference else "train_step.csv")
    rows = [pd.read_csv(table, dtype=str)] if table.exists() else []
    pd.concat([*rows, pd.DataFrame([row], dtype=str)]).to_csv(table, index=False)
    print(pd.Series(row).to_string())


if __name__ == "__main__":
    main()
