#!/bin/bash
# Everything that is measured on a CPU, in turn, on a machine that does nothing else (about an hour on two
# cores): make benchmark. Rows are appended to benchmarks/results; `benchmarks/plot.py` plots them.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
# Both sides are spared most of the page faults.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

networks="resnet18:112:32 kpn_resnet34:160:16 se_resnext50_32x4d:150:8 siamese_gap:150:32 efficientnet_lite0:224:32"
for each in $networks; do
    IFS=: read -r net size batch <<< "$each"
    "$python" benchmarks/train_step.py --net="$net" --size="$size" --batch="$batch"
    "$python" benchmarks/train_step.py --net="$net" --size="$size" --batch="$batch" --inference
    "$python" benchmarks/train_step.py --net="$net" --size="$size" --batch=1 --inference
done
for script in compute_table streaming ingest_films phantom_films predict_films serve_load coherence planted_incoherence; do
    "$python" "benchmarks/$script.py"
done
"$python" benchmarks/plot.py
