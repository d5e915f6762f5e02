#!/bin/bash
# Everything that is measured on one GPU, the most important first, in under eight minutes:
#   WHEELS=folder benchmarks/accelerator.sh OUT
# installs a folder of wheels, for a machine without a network, and writes to OUT after each part;
# without WHEELS what is installed is used. A part that fails or takes too long costs only itself.
# The folder is made by: pip download -d folder -c constraints.txt '.[cuda,torch]' setuptools
set -u
out=${1:?name a folder for the results}
mkdir -p "$out"
python=${PYTHON:-python}

if [ -n "${WHEELS:-}" ]; then
    # Wheels as files, and nothing else looked for: it works without a network.
    "$python" -m pip install --quiet --no-deps "$WHEELS"/*.whl &&
        "$python" -m pip install --quiet --no-deps --no-build-isolation -e .
fi > "$out/install.log" 2>&1

part() { # NAME SECONDS COMMAND...: runs it, and keeps what the parts have measured so far.
    local name=$1 seconds=$2
    shift 2
    timeout "$seconds" "$@" > "$out/$name.log" 2>&1
    echo "$name: exit $? after ${SECONDS} s in all" | tee -a "$out/parts.txt"
    cp benchmarks/results/*.csv "$out/"
}

step() { # NET SIZE BATCH
    part "step_$1" 75 "$python" benchmarks/train_step.py --net="$1" --size="$2" --batch="$3" \
        --dtype=bfloat16 --compile
}

nvidia-smi > "$out/device.txt" 2>&1
step kpn_resnet34 320 48
step siamese_gap 299 64
step se_resnext50_32x4d 300 32
part progression 90 "$python" benchmarks/compute_table.py --time --full --dtype=bfloat16
part run 90 "$python" -m knee_jax.main --config=kpn:demo --workdir="$out/run" --data_dir="$out/data" \
    --config.epochs=2
step kpn_resnet50 320 48
step se_resnet50 300 32
