"""Veason-R1's seed traces without a model: the thinking is one of a few sentences, filled in from ground truth.

For synthetic clips and tests. What is shown, the keyframe and the boxes are those of `SeedMethod`; only the words come
from here.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from data_construction.atomic import write_whole
from data_construction.cot.lines import finished
from data_construction.cot.seed import METHOD, SeedMethod, SeedPlan, SeedSettings, seed_record, shown_of
from data_construction.generate import Item, SetAside, Source
from data_construction.problems import Progress
from data_construction.readers.dataset import Dataset
from data_construction.vlm import Usage
from rollout.errors import DataError

THOUGHTS = (
    "It is {query}. At {time} s it is plain to see.",
    "It is {query}. The frame at {time} s shows it best.",
    "It is {query}. It is clearest at {time} s.",
)
SEVERAL = "They are {query}. At {time} s they are plain to see."


def write_seed_traces(
    dataset: Dataset,
    path: Path,
    settings: SeedSettings,
    kinds: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> int:
    """Write one trace an expression with a visible target to ``path``, whole or not at all; returns their number.

    Args:
        path: a ``traces.jsonl``, as ``videoseg data cot seed`` writes.
        kinds: of expressions; empty: all.

    Raises DataError for a clip or expression that cannot be used.
    """
    source = Source(dataset, wanted=lambda e: bool(e.anno_ids) and (not kinds or e.kind in kinds))
    method, total = SeedMethod(source, settings), len(source)
    lines = []
    for done, item in enumerate(source.items(lambda _: False)):
        if progress is not None:
            progress(done, total, f"planning {dataset.split} traces")
        if isinstance(item, SetAside):
            raise DataError(item.reason)
        assert item is not None
        if _is_visible(item, settings):
            lines.append(json.dumps(trace_by_rule(method, item), ensure_ascii=False))
    write_whole(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def _is_visible(item: Item, settings: SeedSettings) -> bool:
    """In any frame that could be shown."""
    sample = item.sample
    return sample.masklets is None or bool(sample.masklets.areas()[settings.boxes().candidates(sample.clip)].any())


def trace_by_rule(method: SeedMethod, item: Item) -> dict[str, object]:
    """One finished line. Raises as `SeedMethod.plan`."""
    plan = method.plan(item)
    record = seed_record(plan, _think(plan))
    shown = shown_of(plan.sample.clip, method.settings)
    return finished(method.source.dataset, METHOD, item, record, Usage(), shown=shown)


def _think(plan: SeedPlan) -> str:
    query = plan.sample.expression.text.strip(" .?").lower()
    thoughts = THOUGHTS if len(plan.boxes) == 1 else (SEVERAL,)
    return thoughts[zlib.crc32(plan.sample.id.encode()) % len(thoughts)].format(query=query, time=plan.keyframe_time)
