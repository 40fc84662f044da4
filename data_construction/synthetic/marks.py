"""Marks that vanish when a frame is shrunk to a half or a quarter of its side, and stand out at full size.

A mark is brightness on the frame's own grid of 4 x 4 pixels: across and down, each nothing (1), narrow stripes
(+ - + -) or broad ones (+ - - +). Inside a disc both kinds shrink to exactly nothing: they are odd about the middle of
every pair of pixels, and sum to zero over four. At its rim they would leak (a reader tells half of them by it), so what
a shrunken frame would still show is taken out (`hidden`). Other sizes let marks through: ``videoseg data oracles``
trains a reader on what is really shown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.badges import BadgeScene, Disc
from data_construction.synthetic.hidden import unseen_part
from data_construction.synthetic.render import background

CELL = 4
_EVEN, _NARROW, _BROAD = (1, 1, 1, 1), (1, -1, 1, -1), (1, -1, -1, 1)
MARKS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "barred": (_BROAD, _EVEN),
    "ruled": (_EVEN, _BROAD),
    "ribbed": (_NARROW, _EVEN),
    "lined": (_EVEN, _NARROW),
    "checked": (_BROAD, _BROAD),
    "woven": (_NARROW, _NARROW),
}
"""Brightness in -1..1 across and down, by the word that an expression asks for it with."""
MARK_DEPTH = 56.0
"""Half the brightness difference within a mark, of 255. Hiding them costs narrow ones a fifth of it and adds up to
three quarters at a rim: discs are of middling brightness, so that nothing is cut off there."""
FRAME_NOISE = 2.0


def render_badges(scene: BadgeScene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, S, S, 3) RGB frames."""
    size, total = scene.size, scene.num_frames
    noise = FRAME_NOISE * rng.standard_normal((total, size, size), dtype=np.float32)
    frames = np.repeat(background(rng, size)[None], total, axis=0)
    discs = scene.masks.any(0)
    frames[discs] = scene.colors[np.nonzero(discs)[0]]
    shown = list(scene.objects[0].legible)
    frames[shown] += MARK_DEPTH * window_marks(scene)[..., None]
    return np.clip(np.rint(frames + noise[..., None]), 0, 255).astype(np.uint8)


def window_marks(scene: BadgeScene) -> NDArray[np.float32]:
    """(W, S, S) the marks of all discs in the W frames of the window, without what shrunken frames would show."""
    window = scene.objects[0].legible
    drawn = [sum(mark_pixels(d, m[t]) for d, m in zip(scene.objects, scene.masks, strict=True)) for t in window]
    return unseen_part(np.stack(drawn).astype(np.float32))


def mark_pixels(disc: Disc, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(S, S) in -1..1: a disc's mark on the grid's cells that lie wholly in its mask, 0 elsewhere."""
    cells = mask.shape[0] // CELL
    whole = mask.reshape(cells, CELL, cells, CELL).all((1, 3))
    across, down = MARKS[disc.mark]
    tile = np.outer(down, across).astype(np.float32) * disc.flip
    return np.kron(whole.astype(np.float32), tile)
