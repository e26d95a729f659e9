#!/usr/bin/env bash
# The whole of electra_ds in minutes, on text that every such machine has: the English documentation strings of the
# Python packages just installed. `make demo` runs it; every line it types is shown, and works by hand.
set -euo pipefail

OUT=${1:-runs/demo}
PACKAGES=python,numpy,scipy,sklearn,pandas,matplotlib,torch,transformers
HOLDOUT=0.2      # share of modules whose text pretraining never sees; validation and test texts come from there
RANKS=2
STOP_AT=900     # the run is stopped here and taken up again, to show that it can be

if [ -e "$OUT" ]; then
    echo "$OUT exists from an earlier demo; remove it first: rm -r $OUT" >&2
    exit 2
fi
mkdir -p "$OUT"
# Threads that wait asleep: two threads that spin for each other crawl on a machine that does something else as well.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1
began=$SECONDS

section() { printf '\n\033[1m== %s\033[0m   (%d s)\n' "$1" $((SECONDS - began)); }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
pretrain() {
    run torchrun --standalone --nproc_per_node "$RANKS" -m electra_ds pretrain --config demo \
        --data.path "$OUT/shards" --output "$OUT/pretrain" "$@"
}

section "Shards: documentation strings to WebDataset tars, with a WordPiece vocabulary of their own"
run electra-ds prep --inputs "docstrings:$PACKAGES" --docstrings_holdout "$HOLDOUT" --output "$OUT/shards" \
    --tokenizer.type wordpiece --tokenizer.vocab_size 8192 --workers 2

section "Pretraining on $RANKS ranks, ZeRO-1, bf16: stopped on purpose after step $STOP_AT"
pretrain --training.stop_after "$STOP_AT"

section "The same command without the stop: it goes on from the checkpoint"
pretrain

section "Export to stock Hugging Face, held against the checkpoint"
run electra-ds convert "$OUT/pretrain" --output "$OUT/hf" --verify

section "Fine-tuning: which package is this text from? Pretrained, from scratch, and a bag of words"
run python -m data_prep.docstrings_task --output "$OUT/task" --packages "$PACKAGES" --holdout "$HOLDOUT" --workers 2
run electra-ds finetune --model "$OUT/hf/discriminator" --task classification --train "$OUT/task/train.tsv" \
    --validation "$OUT/task/validation.tsv" --test "$OUT/task/test.tsv" --output "$OUT/finetune" \
    --compare_from_scratch true --baseline true --config demo/finetune.yaml

section "Report"
run electra-ds report "$OUT/pretrain" --shards "$OUT/shards" --finetune "$OUT/finetune" --output "$OUT/report.html" --title "electra_ds demo"

section "Done"
python demo/summary.py "$OUT" $((SECONDS - began))
