"""Frames at the size they are shown, read once a process: decoded pictures behind a bound in bytes.

All rollouts of a group show the same first frames, and every turn and pass needs those before it again. A picture
travels as a reference (clip, frame, size) and is read where its pixels are needed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.frames import load_frame_resized
from rollout.messages import FramePart
from rollout.overlay import draw_mask
from rollout.types import Clip

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[str, int, int, str | None]
DIGEST = "videoseg_digest"
"""Key of an image's ``info`` under which `mark` leaves its name."""
READERS = 8
"""Threads that read ahead; decoding and resizing run outside Python's lock."""


@dataclass(frozen=True)
class Picture:
    """A frame of ``clip`` at height x width pixels, with a mask drawn on it or without."""

    clip: Clip
    frame: int
    height: int
    width: int
    drawn: str | None = None

    @property
    def key(self) -> Key:
        """File, size and mask: equal for equal pixels."""
        return self.clip.frames[self.frame], self.height, self.width, self.drawn

    @property
    def nbytes(self) -> int:
        """Of its pixels, uint8 RGB."""
        return self.height * self.width * 3


def mark(image: Image) -> Image:
    """Give ``image`` a name that equal pixels share, which travels with it: 16 bytes under ``info[DIGEST]``."""
    if DIGEST not in image.info:
        facts = f"{image.mode} {image.size}".encode()
        image.info[DIGEST] = hashlib.blake2b(image.tobytes(), digest_size=16, key=facts).digest()
    return image


def read_picture(picture: Picture) -> Image:
    """From disk, with its mask. Raises `DataError` (clip, frame and file named)."""
    clip = picture.clip
    image = load_frame_resized(clip, picture.frame, picture.height, picture.width)
    return image if picture.drawn is None else draw_mask(image, picture.drawn, (clip.height, clip.width))


class PictureStore:
    """Least recently used out first, at most ``limit`` bytes of pixels. For any number of threads: who asks for what
    another one is reading waits for it."""

    def __init__(self, limit: int, readers: int = READERS) -> None:
        self.limit = limit
        self._readers = readers
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, tuple[Future[Image], int]] = OrderedDict()
        self._bytes = 0
        self.asked = 0
        """Pictures that were asked for so far."""
        self.read = 0
        """Those that were read from disk for it, and the seconds that took, over all threads."""
        self.seconds = 0.0

    def get(self, pictures: Sequence[Picture]) -> list[Image]:
        """RGB images in order, shared: do not draw on them. Raises `DataError` (clip, frame and file named)."""
        self.read_ahead(pictures)
        return [self._one(picture) for picture in pictures]

    def of_clip(self, clip: Clip, parts: Sequence[FramePart]) -> list[Image]:
        """The frames that a conversation shows, in order, each with its `mark`."""
        return [mark(image) for image in self.get([Picture(clip, p.frame, p.height, p.width, p.drawn) for p in parts])]

    def read_ahead(self, pictures: Iterable[Picture]) -> None:
        """Begin to read what is not held, as far as it fits beside the rest of ``pictures``; returns at once."""
        wanted = {p.key: p for p in pictures}
        with self._lock:
            for key in wanted.keys() & self._held.keys():
                self._held.move_to_end(key)
            for key, picture in wanted.items():
                if key in self._held:
                    continue
                if not self._make_room(picture.nbytes, keep=wanted.keys()):
                    break
                future = self._hold(picture)
                self._pool().submit(self._read, picture, future)

    def _one(self, picture: Picture) -> Image:
        with self._lock:
            self.asked += 1
            if picture.key in self._held:
                self._held.move_to_end(picture.key)
                future, mine = self._held[picture.key][0], False
            else:
                self._make_room(picture.nbytes, keep=())
                future, mine = self._hold(picture), True
        if mine:
            self._read(picture, future)
        return future.result()

    def _hold(self, picture: Picture) -> Future[Image]:
        future: Future[Image] = Future()
        self._held[picture.key] = future, picture.nbytes
        self._bytes += picture.nbytes
        return future

    def _make_room(self, nbytes: int, keep: Iterable[Key]) -> bool:
        """Drop the oldest, but none of ``keep``, until ``nbytes`` fit; whether they do."""
        while self._held and self._bytes + nbytes > self.limit:
            oldest = next(iter(self._held))
            if oldest in keep:
                return False
            self._drop(oldest)
        return True

    def _drop(self, key: Key) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def _read(self, picture: Picture, future: Future[Image]) -> None:
        began = time.perf_counter()
        try:
            image = read_picture(picture)
        except Exception as error:
            with self._lock:
                if self._held.get(picture.key, (None, 0))[0] is future:
                    self._drop(picture.key)  # the next one who asks tries again, and hears it as well
            future.set_exception(error)
            return
        with self._lock:
            self.read += 1
            self.seconds += time.perf_counter() - began
        future.set_result(image)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._readers, thread_name_prefix="pictures")
        return self._threads
