#!/usr/bin/env bash
# OpenCV 5.0, `cv2.imread(path, cv2.IMREAD_UNCHANGED)` on a palette PNG (the form of DAVIS and
# YouTube-VOS masks).
#
# Guess: UNCHANGED returns what the file stores, (height, width) of object ids, as Pillow does; only the colour and
# greyscale flags look the ids up in the palette.
#
# Seen: the palette is applied all the same: (height, width, 3) of BGR colours, and the ids are gone. Greyscale
# gives the luminance of the colours: 38 and 75 for ids 1 and 2.
#
# Matters to: whoever reads VOS annotations with OpenCV: `mask == 1` finds nothing, or compares with a channel. Read
# them with Pillow: `np.array(Image.open(path))`.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.3.5
cd "$room"
venv/bin/python - <<'PY'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image

ids = np.zeros((16, 16), np.uint8)
ids[4:8, 4:8], ids[8:12, 8:12] = 1, 2
mask = Image.fromarray(ids)
mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # background, object 1 dark red, object 2 green
mask.save("mask.png")

print("OpenCV", cv2.__version__, "Pillow", PIL.__version__)
stored = np.array(Image.open("mask.png"))
unchanged = cv2.imread("mask.png", cv2.IMREAD_UNCHANGED)
grey = cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE)
print("Pillow:          ", stored.shape, "values", np.unique(stored).tolist())
print("IMREAD_UNCHANGED:", unchanged.shape, "BGR of objects 1 and 2", unchanged[[5, 9], [5, 9]].tolist())
print("IMREAD_GRAYSCALE:", grey.shape, "values", np.unique(grey).tolist())
assert np.array_equal(stored, ids)
still = unchanged.shape == (16, 16, 3) and not (unchanged == 1).any() and not (grey == 1).any()
print("as found" if still else "CHANGED: OpenCV returns the ids")
sys.exit(0 if still else 1)
PY
