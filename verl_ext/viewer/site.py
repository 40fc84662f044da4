"""Every page and picture by its name: the server answers requests with them, ``--static`` writes them to files.

Names are flat (``index.html``, ``group-a-12-0.html``, ``f-a-12-0-17-96.jpg``), so that links work the same from a
server and from a folder. They hold numbers alone, never a path: what they stand for is looked up in what the source
has read.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from rollout.errors import VideosegError
from rollout.types import RLE
from verl_ext.viewer import pages, pictures
from verl_ext.viewer.listing import Listing
from verl_ext.viewer.model import Group, NotThere, Source

logger = logging.getLogger(__name__)

SIDES = ("a", "b")
REMEMBERED_GROUPS = 16
HTML, JPEG, PNG, JSON = "text/html; charset=utf-8", "image/jpeg", "image/png", "application/json"
_KEY = r"(\d{1,12}(?:-\d{1,6})?)"


@dataclass(frozen=True)
class Response:
    body: bytes
    kind: str
    status: int = 200
    keeps: bool = False
    """Whether it is the same as long as the name's stamp is: pictures."""


class Site:
    """One source, or two side by side."""

    def __init__(self, sources: Sequence[Source], live: bool = True, moved: Mapping[str, str] | None = None) -> None:
        self.listings = {side: Listing(side, source) for side, source in zip(SIDES, sources, strict=False)}
        self.live = live
        """Whether a server answers that pages may ask again."""
        self._moved = dict(moved or {})
        self._groups: OrderedDict[tuple[str, str, str], Group] = OrderedDict()
        self._lock = Lock()
        answers: dict[str, Callable[..., Response]] = {
            r"(?:index\.html)?": self._index,
            r"index\.json": self._index_json,
            r"stamp\.json": self._stamp,
            r"curves\.html": self._curves,
            rf"group-([ab])-{_KEY}\.html": self._group,
            rf"pair-{_KEY}-and-{_KEY}\.html": self._pair,
            rf"f-([ab])-{_KEY}-(\d+)-(\d+)\.jpg": self._frame,
            rf"t-([ab])-{_KEY}-(\d+)-(\d+)\.png": self._truth,
            rf"m-([ab])-{_KEY}-(\d+)-(\d+|answer)-(\d+)-(\d+)\.png": self._mask,
            rf"x-([ab])-{_KEY}-(\d+)-(\d+)-(\d+)\.png": self._boxes,
        }
        self._answers = [(re.compile(pattern), answer) for pattern, answer in answers.items()]

    def respond(self, name: str) -> Response:
        """Never raises for what is on disk: what cannot be shown is said on the page."""
        for pattern, answer in self._answers:
            match = pattern.fullmatch(name)
            if match is not None:
                try:
                    return answer(*match.groups())
                except NotThere as e:
                    return self._message(404, str(e))
                except (VideosegError, OSError) as e:
                    return self._message(500, str(e))
                except Exception as e:  # whatever a file on disk may hold: it is said in words, the log has the rest
                    logger.exception("%s could not be shown", name)
                    return self._message(500, f"This could not be shown ({type(e).__name__}: {e}); the log says where.")
        return self._message(404, "There is no such page. Only pages of this run are served.")

    def warm_up(self) -> None:
        """Reads the lists, and compiles what decodes masks, before anybody asks."""
        self.respond("index.html")
        pictures.warm_up()

    def group(self, side: str, key: str) -> Group:
        """Raises NotThere. A page's pictures ask for the same group many times."""
        if side not in self.listings:
            raise NotThere("no second run was given: videoseg view RUN --with OTHER")
        listing = self.listings[side]
        at = (side, key, listing.recent_stamp())
        with self._lock:
            if at in self._groups:
                self._groups.move_to_end(at)
                return self._groups[at]
        group = self._found_again(listing.source.group(key))
        with self._lock:
            self._groups[at] = group
            while len(self._groups) > REMEMBERED_GROUPS:
                self._groups.popitem(last=False)
        return group

    def _found_again(self, group: Group) -> Group:
        """Frames under the folders that they were moved to."""
        if group.clip is None or not self._moved:
            return group
        frames = tuple(self._place_now(path) for path in group.clip.frames)
        return replace(group, clip=replace(group.clip, frames=frames))

    def _place_now(self, path: str) -> str:
        old = next((old for old in self._moved if path.startswith(f"{old}/")), None)
        return path if old is None else self._moved[old] + path.removeprefix(old)

    # ---- pages --------------------------------------------------------------------------------------------------

    def _index(self) -> Response:
        return Response(pages.index_page(self.listings, self.live).encode(), HTML)

    def _index_json(self) -> Response:
        return Response(pages.index_json(self.listings).encode(), JSON)

    def _stamp(self) -> Response:
        return Response(pages.stamp_json(self.listings).encode(), JSON)

    def _curves(self) -> Response:
        return Response(pages.curves_fragment(self.listings).encode(), HTML)

    def _group(self, side: str, key: str) -> Response:
        group = self.group(side, key)
        return Response(pages.group_page(self.listings[side], group).encode(), HTML)

    def _pair(self, first: str, second: str) -> Response:
        groups = {"a": self.group("a", first), "b": self.group("b", second)}
        return Response(pages.pair_page(self.listings, groups).encode(), HTML)

    def _message(self, status: int, text: str) -> Response:
        return Response(pages.message_page(text).encode(), HTML, status)

    # ---- pictures -----------------------------------------------------------------------------------------------

    def _frame(self, side: str, key: str, frame: str, size: str) -> Response:
        group, t, pixels = self._place(side, key, frame, size)
        assert group.clip is not None
        return Response(pictures.frame_jpeg(group.clip, t, pixels), JPEG, keeps=True)

    def _truth(self, side: str, key: str, frame: str, size: str) -> Response:
        group, t, pixels = self._place(side, key, frame, size)
        return self._layer(group, group.truth.get(t), pixels, truth=True)

    def _mask(self, side: str, key: str, dialogue: str, turn: str, frame: str, size: str) -> Response:
        group, t, pixels = self._place(side, key, frame, size)
        try:
            one = group.dialogues[int(dialogue)]
            masks = one.answer if turn == "answer" else one.turns[int(turn)].masks
            rle = masks[t]
        except (IndexError, KeyError):
            raise NotThere("there is no such mask") from None
        return self._layer(group, rle, pixels, truth=False)

    def _boxes(self, side: str, key: str, dialogue: str, turn: str, size: str) -> Response:
        group, _, pixels = self._place(side, key, "0", size)
        assert group.clip is not None
        try:
            boxes = group.dialogues[int(dialogue)].turns[int(turn)].boxes
        except IndexError:
            raise NotThere("there is no such turn") from None
        return Response(pictures.boxes_png(boxes, group.clip, pixels), PNG, keeps=True)

    def _layer(self, group: Group, rle: RLE | None, pixels: int, truth: bool) -> Response:
        assert group.clip is not None
        return Response(pictures.mask_png(rle, group.clip, pixels, truth), PNG, keeps=True)

    def _place(self, side: str, key: str, frame: str, size: str) -> tuple[Group, int, int]:
        group = self.group(side, key)
        t, pixels = int(frame), int(size)
        if group.clip is None or t >= group.clip.num_frames or pixels not in pictures.SIDES:
            raise NotThere("there is no such picture")
        return group, t, pixels
