#!/usr/bin/env bash
# LOST beside dense, each at three learning rates: the same shape, start, data order, steps and evaluator.
#   usage: benchmarks/lost_and_dense.sh TRAIN_TEXT VALID_TEXT FOLDER
# Writes one line of JSON a run to FOLDER/results.jsonl. Interrupted, it goes on where it was.
set -euo pipefail
train_text=$1 valid_text=$2 folder=$3
[ -f "$folder/data/dataset.json" ] || lost prepare "$train_text" --valid "$valid_text" --vocab-size 8192 --out "$folder/data"
for run in lost:6e-3 dense:3e-3 dense:1.5e-3 dense:6e-3 lost:3e-3 lost:1.2e-2; do
    kind=${run%%:*} lr=${run##*:}
    grep -qs "\"$kind\", \"lr\": $lr," "$folder/results.jsonl" && continue
    lost train quickstart --data "$folder/data" --out "$folder/$kind-$lr" \
        --set "projection.kind=$kind" --set "optimizer.lr=$lr" \
        --set model.vocab_size=8192 --set model.tie_word_embeddings=false \
        --set schedule.steps=1000 --set schedule.warmup_steps=100 --set train.eval_every=250 --set train.save_every=250
    answer=$(lost eval "$folder/$kind-$lr" --json | tr -d '\n')
    echo "{\"kind\": \"$kind\", \"lr\": $lr, \"eval\": $answer}" >> "$folder/results.jsonl"
done
