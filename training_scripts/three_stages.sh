#!/usr/bin/env bash
# VideoSEG-O3's three stages one after another on this machine: training_scripts/three_stages.sh 2b [key=value ...]
# The first starts from $VIDEOSEG_MODELS/Qwen3-VL-2B-SEG, which `videoseg policy new` makes (see the recipe's head).
# Data under $VIDEOSEG_DATA, models under $VIDEOSEG_MODELS. Interrupted, the same command goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
size=${1:?size: 2b or 4b}
shift
for stage in sft cold_start grpo; do
    .venv/bin/videoseg train "recipes/videoseg_o3/${stage}_${size}.yaml" --resume "$@"
done
