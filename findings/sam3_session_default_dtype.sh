#!/usr/bin/env bash
# transformers 5.10.4, `Sam3TrackerVideoInferenceSession` made without a dtype.
#
# Guess: every argument but the video and its size has a default that works; without `dtype` frames are float32.
#
# Seen: the default is the text "float32", which is handed to `Tensor.to`: TypeError as soon as the session is made with
# a video. Made without one it stands, and the error comes with the first frame. `torch.float32` works.
#
# Matters to: who tracks with SAM 3 outside its processor, which always gives a dtype: the error names Tensor.to and no
# argument of the session.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 transformers==5.10.4 numpy==2.3.5 pillow==12.3.0
cd "$room"
venv/bin/python - <<'PY'
import sys

import torch
import transformers
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession as Session

print("transformers", transformers.__version__, "torch", torch.__version__)
video = torch.zeros(3, 3, 16, 16)


def outcome(make):
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:70]}"
    return "works"


found = [
    outcome(lambda: Session(video=video, video_height=16, video_width=16)),
    outcome(lambda: Session(video_height=16, video_width=16)),
    outcome(lambda: Session(video_height=16, video_width=16).add_new_frame(video[0])),
    outcome(lambda: Session(video=video, video_height=16, video_width=16, dtype=torch.float32)),
]
for what, seen in zip(("with a video", "without", "and its first frame", "with torch.float32"), found, strict=True):
    print(f"{what:20s} {seen}")
still = [seen.split(":")[0] for seen in found] == ["TypeError", "works", "TypeError", "works"]
print("as found" if still else "CHANGED: the default can be used")
sys.exit(0 if still else 1)
PY
