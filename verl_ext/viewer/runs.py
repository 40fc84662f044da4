"""A training run as a source: its metrics, and the rollouts that it keeps, also while it goes on."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report.page import facts
from rollout.box_protocol import parse_box_turn
from rollout.errors import DataError
from verl_ext.rollout_log import (
    DamagedStep,
    KeptGroup,
    KeptRollout,
    KeptTurn,
    StepFile,
    read_group,
    read_header,
    step_files,
)
from verl_ext.run.run_files import HELD_OUT, LIVE_METRICS, METRICS, RESULT_FILE, read_metrics, run_finished, scalar
from verl_ext.run.training_report import RESOLVED, run_rows, run_settings, step_row
from verl_ext.viewer.model import Curve, Dialogue, Entry, Group, NotThere, TurnView, number

FIRST = ("reward/mean", "val/reward/mean", "val/jf", "loss/total", "loss/held out", "kl")
"""Curves that a reader looks for first."""


class RunSource:
    """See `verl_ext.viewer.model.Source`."""

    score_name = "reward"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = _settings(folder / RESOLVED)
        self.title = str(self._settings.get("name", folder.name))
        self._lock = threading.Lock()
        self._headers: dict[int, tuple[StepFile, dict[str, Any] | DamagedStep]] = {}

    def stamp(self) -> str:
        parts = [f"{f.step}:{f.stamp[0]}:{f.stamp[1]}" for f in step_files(self.folder)]
        for name in (METRICS, LIVE_METRICS, HELD_OUT, RESULT_FILE):
            try:
                stat = (self.folder / name).stat()
                parts.append(f"{stat.st_mtime_ns}:{stat.st_size}")
            except OSError:
                parts.append("-")
        return "|".join(parts)

    def state(self) -> str:
        try:
            if (self.folder / RESULT_FILE).is_file():
                return "finished" if run_finished(self.folder) else "stopped"
        except (ValueError, KeyError, TypeError):
            return ""
        return "running" if (self.folder / LIVE_METRICS).is_file() else ""

    def entries(self) -> tuple[Sequence[Entry], Sequence[str]]:
        entries, problems = [], []
        for step, (_, header) in sorted(self._read_headers().items(), reverse=True):
            if isinstance(header, DamagedStep):
                problems.append(str(header))
                continue
            for n, g in enumerate(header["groups"]):
                row = (g["sample"], g["clip"], g["text"], g["kind"], g["stop"], g["turns"], g["reward"], step)
                entries.append(Entry(f"{step}-{n}", *row))
        return entries, problems

    def group(self, key: str) -> Group:
        step, _, n = key.partition("-")
        found = self._read_headers().get(int(step))
        if found is None or not n:
            raise NotThere(f"step {step}: no rollouts of it are kept here")
        file, header = found
        if isinstance(header, DamagedStep):
            raise NotThere(str(header))
        if int(n) >= len(header["groups"]):
            raise NotThere(f"step {step} has {len(header['groups'])} groups, there is no number {n}")
        try:
            return view_of(key, int(step), read_group(file, header, int(n), self.folder))
        except (DamagedStep, OSError) as e:
            raise NotThere(str(e)) from e

    def curves(self) -> Sequence[Curve]:
        try:
            rows = run_rows(self.folder)
        except DataError:
            return []
        table = [step_row(row) for row in rows if row["step"] > 0]
        curves = _curves(table)
        held_out = read_metrics(self.folder / HELD_OUT)
        held = [{k: v for k in row if k.startswith("val/") and (v := scalar(row[k])) is not None} for row in held_out]
        return sorted(
            [*curves, *_curves([{"step": r["step"], **h} for r, h in zip(held_out, held, strict=True)])], key=_rank
        )

    def facts(self) -> Sequence[tuple[str, str]]:
        return facts(self._settings)

    def _read_headers(self) -> dict[int, tuple[StepFile, dict[str, Any] | DamagedStep]]:
        """Of files that are new or were written anew; those that are gone are forgotten."""
        with self._lock:
            now = {file.step: file for file in step_files(self.folder)}
            for step in [s for s in self._headers if s not in now]:
                del self._headers[step]
            for step, file in now.items():
                if step in self._headers and self._headers[step][0] == file:
                    continue
                try:
                    self._headers[step] = (file, read_header(file, self.folder))
                except DamagedStep as e:
                    self._headers[step] = (file, e)
                except OSError as e:
                    self._headers[step] = (file, DamagedStep(f"{file.path.name}: {e.strerror}"))
            return dict(self._headers)


def _settings(path: Path) -> dict[str, Any]:
    """The recipe; nothing where it is half written."""
    from yaml import YAMLError

    try:
        return run_settings(path)
    except (YAMLError, OSError, ValueError):
        return {}


def view_of(key: str, step: int, kept: KeptGroup) -> Group:
    """A kept group as the page wants it."""
    dialogues = [_dialogue(r, kept.box_side) for r in kept.rollouts]
    return Group(key, kept.sample, kept.text, kept.kind, kept.clip, kept.visible, kept.truth, dialogues, step)


def _dialogue(r: KeptRollout, side: int | None) -> Dialogue:
    n = r.log_probs
    facts_ = [(f"IoU, {name}", number(value)) for name, value in r.ious.items()]
    facts_ += [("tokens", str(n.tokens)), ("log-prob, mean", number(n.mean)), ("log-prob, least", number(n.least, 1))]
    facts_ += [("entropy", number(n.entropy)), ("actor \N{MINUS SIGN} engine, largest", number(n.engine_gap, 4))]
    facts_ += [("KL to the reference", number(n.kl, 4))]
    first, last = r.versions
    facts_.append(("weights of step", str(first) if first == last else f"{first} to {last}"))
    return Dialogue(r.stop.value, [_turn(t, side) for t in r.turns], r.rewards, r.advantage, facts_)


def _turn(t: KeptTurn, side: int | None) -> TurnView:
    action = t.action.value if t.action else ""
    boxes = box_shares(t.text, side) if side else []
    return TurnView(t.text, action or ("answer" if boxes else ""), t.grounding, t.keyframe, t.shown, t.masks, boxes)


def box_shares(text: str, side: int) -> list[list[float]]:
    """Boxes of an answer as shares of the frame; none for what does not parse or is not finite."""
    answer = parse_box_turn(text).answer
    found = answer.boxes if answer else ()
    return [[min(max(v / side, 0.0), 1.0) for v in box] for box in found if all(map(math.isfinite, box))]


def _curves(table: Sequence[dict[str, float]]) -> list[Curve]:
    names = dict.fromkeys(name for row in table for name in row if name != "step")
    curves = []
    for name in names:
        rows = [(row["step"], row.get(name, math.nan)) for row in table]
        section, _, short = name.rpartition("/")
        title = {"val/jf": "held-out J&F", "val/reward/mean": "held-out reward", "reward/mean": "reward"}.get(name)
        shown = title or (short if section in ("reward", "stop", "seconds", "loss") else name).replace("_", " ")
        curves.append(Curve(shown, [r[0] for r in rows], [r[1] for r in rows], "main" if name in FIRST else section))
    return curves


def _rank(curve: Curve) -> tuple[int, str]:
    order = ("main", "reward", "loss", "", "stop", "seconds")
    return (order.index(curve.section) if curve.section in order else len(order), curve.section)
