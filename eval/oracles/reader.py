"""A small convolutional reader of marks, trained on legible frames at one budget: can anything be read there at all?

Shape legend: N pictures of h x w pixels, K = 4 quarters of the frame with an object each, M marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.oracles.clips import MarkedClip, Shown
from eval.oracles.settings import OracleSettings

WIDTH, LR = 24, 3e-3
READS, LOOKBACK = 0.02, 10
"""A mean loss of so little over so many steps ends the training."""
Tell = Callable[[int, int, str], None]


class MarkReader(nn.Module):
    """(N, 3, h, w) -> (N, K, M) logits. Each quarter is described by the mean and the peak of what filters find."""

    def __init__(self, marks: int) -> None:
        super().__init__()
        self.filters = nn.Sequential(
            nn.Conv2d(3, WIDTH, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
            nn.ReLU(),
        )
        self.name = nn.Sequential(nn.Linear(4 * WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, marks))

    def forward(self, pictures: Tensor) -> Tensor:
        found = self.filters(pictures)
        quarters = torch.cat([F.adaptive_avg_pool2d(found, 2), F.adaptive_max_pool2d(found, 2)], dim=1)
        logits: Tensor = self.name(quarters.flatten(2).transpose(1, 2))  # top left, top right, bottom left, …
        return logits


class TrainedReader:
    """A reader at one budget."""

    def __init__(self, shown: Shown, marks: Sequence[str], settings: OracleSettings) -> None:
        self.shown, self.marks = shown, list(marks)
        torch.manual_seed(settings.seed)
        self._settings, self._net = settings, MarkReader(len(marks))

    def train(self, clips: Sequence[MarkedClip], tell: Tell | None = None) -> int:
        """Learn from random legible frames, which are held in memory; returns the steps taken."""
        s, rng = self._settings, np.random.default_rng(self._settings.seed)
        pictures = np.stack([self.shown.picture(c.clip, t).astype(np.float16) for c in clips for t in c.legible])
        wanted = torch.tensor([[self.marks.index(m) for m in c.marks] for c in clips for _ in c.legible])
        optimizer = torch.optim.AdamW(self._net.parameters(), lr=LR)
        losses: list[float] = []
        for step in range(s.steps):
            rows = rng.integers(len(pictures), size=s.batch)
            seen = torch.from_numpy(pictures[rows]).float()
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1.0, 2 * (s.steps - step) / s.steps)
            loss = F.cross_entropy(self._net(seen).flatten(0, 1), wanted[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if tell is not None:
                tell(step + 1, s.steps, f"reader at {self.shown.units} units, loss {losses[-1]:.2f}")
            if len(losses) >= LOOKBACK and np.mean(losses[-LOOKBACK:]) < READS:
                break
        return len(losses)

    @torch.no_grad()
    def log_probs(self, clip: MarkedClip, frames: Sequence[int]) -> NDArray[np.float32]:
        """(K, M) summed over ``frames``; zeros for none."""
        if not frames:
            return np.zeros((len(clip.marks), len(self.marks)), dtype=np.float32)
        pictures = np.stack([self.shown.picture(clip.clip, t) for t in frames])
        return np.asarray(self._net(torch.from_numpy(pictures)).log_softmax(-1).sum(0).numpy())
