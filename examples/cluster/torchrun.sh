#!/usr/bin/env bash
# Two machines of eight cards: run this on each, with the same HEAD. No disk need be shared.
#
#     HEAD=10.0.0.1 DATA=/data/photos bash examples/cluster/torchrun.sh
#
# A step is of 64 pictures, 4 a card; published are 4 in all.
#
# Whoever is stopped or loses the other is started again by the same line: the run goes on from its
# last checkpoint, which the first machine keeps and sends to the others.
set -euo pipefail
: "${HEAD:?the address of the first machine}" "${DATA:?a folder of pictures, the same on each machine}"

torchrun --nnodes "${NODES:-2}" --nproc-per-node "${CARDS:-8}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "${RUN:-ldm-kl-f8}" \
    -m calotype train-tokenizer ldm-kl-f8 --data.path "$DATA" \
    --run.batch-size 64 --run.requeue --run.save-minutes 10
