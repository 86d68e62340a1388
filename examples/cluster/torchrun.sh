#!/usr/bin/env bash
# Two machines of eight cards: run this on each, with the same HEAD. No disk need be shared.
#
#     HEAD=10.0.0.1 bash examples/cluster/torchrun.sh train-tokenizer ldm-kl-f8 \
#         --data.path /data/photos --run.batch-size 64 --run.save-minutes 10 --run.requeue
#
# A step is of 64 pictures, 4 a card; published are 4 in all.
#
# A machine that is lost ends the processes on the others, which wait for it; started again there,
# the same line goes on from the last checkpoint. The first machine keeps it and sends it to the
# others, and if it is the one that is lost, the line is typed again on all.
set -euo pipefail
: "${HEAD:?the address of the first machine}"

# Where torchrun's own store is used again, processes that begin anew look for those of before.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Seconds in which a run that is stopped may save.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${GRACE:-120}"
torchrun --nnodes "${NODES:-2}" --nproc-per-node "${CARDS:-8}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "${RUN:-calotype}" \
    -m calotype "$@"
