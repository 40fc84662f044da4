#!/usr/bin/env bash
# transformers 5.10.4, `Qwen2VLImageProcessorPil` (Qwen2-VL, Qwen2.5-VL, Qwen3-VL; the one on tensors does the same) with
# limits by their old names.
#
# Guess: `min_pixels` and `max_pixels` of one processor concern that processor; another one that is made without them
# has the class's own limits, whatever was made before.
#
# Seen: the limits are written into the class's dictionary. Every processor that is made later in the process without
# limits, from a configuration too, has those of the last one that named them.
#
# Matters to: who holds two of them in a process (policy and judge, training and evaluation sizes): which pictures are
# resized depends on what was made first. Give `size={"shortest_edge": ..., "longest_edge": ...}`, which does not leak.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q transformers==5.10.4 numpy==2.3.5 pillow==12.3.0
cd "$room"
venv/bin/python - <<'PY'
import sys

import numpy as np
import transformers
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

picture = Image.fromarray(np.zeros((1008, 1008, 3), np.uint8))


def patches(processor):
    """How many patches of 14 x 14 pixels it makes of the picture."""
    return int(processor(images=[picture], return_tensors="np")["image_grid_thw"].prod())


print("transformers", transformers.__version__)
before = patches(Qwen2VLImageProcessorPil())
by_size = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 200704})
after_size = patches(Qwen2VLImageProcessorPil())
other = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=262144)
after = patches(Qwen2VLImageProcessorPil())
configured = patches(Qwen2VLImageProcessorPil.from_dict({}))
print(f"patches of a 1008 x 1008 picture by a processor without limits: {before}")
print(f"after another was made by size=...:     {after_size} (that one: {patches(by_size)})")
print(f"after another was made by max_pixels:   {after} (that one: {patches(other)})")
still = before == after_size and after == configured == patches(other) != before
print("as found" if still else "CHANGED: limits stay with their processor")
sys.exit(0 if still else 1)
PY
