#!/usr/bin/env bash
# LOST beside dense: the same shape, dense start, data order, steps and evaluator; each at several learning rates.
#   usage: benchmarks/lost_and_dense.sh TRAIN_TEXT VALID_TEXT FOLDER [KIND:LR:INITIALIZER_RANGE]...
# Writes one line of JSON a run to FOLDER/results.jsonl. Interrupted, the same command goes on where it was.
set -euo pipefail
train_text=$1 valid_text=$2 folder=$3
shift 3
runs=("$@")
[ ${#runs[@]} -gt 0 ] || runs=({lost,dense}:{7.5e-4,1.5e-3,3e-3,6e-3,1.2e-2}:{0.02,0.0625})
[ -f "$folder/data/dataset.json" ] || lost prepare "$train_text" --valid "$valid_text" --vocab-size 8192 --out "$folder/data"
for run in "${runs[@]}"; do
    IFS=: read -r kind lr std <<< "$run"
    grep -qs "\"run\": \"$run\"" "$folder/results.jsonl" && continue
    lost train quickstart --data "$folder/data" --out "$folder/$kind-$lr-$std" \
        --set "projection.kind=$kind" --set "optimizer.lr=$lr" --set "model.initializer_range=$std" \
        --set model.vocab_size=8192 --set model.tie_word_embeddings=false \
        --set schedule.steps=1000 --set schedule.warmup_steps=100 --set train.eval_every=250 --set train.save_every=250
    echo "{\"run\": \"$run\", \"eval\": $(lost eval "$folder/$kind-$lr-$std" --json | tr -d '\n')}" >> "$folder/results.jsonl"
done
