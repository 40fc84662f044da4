"""The whole step: verdicts on disk in order, interrupted and continued, bad input named, duplicates, the judge."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_construction.generate.folder import lock_folder
from data_construction.readers import open_dataset
from data_construction.traces import Sources
from data_construction.traces.jsonl import JsonLines
from data_construction.verify import VerifyReport, VerifySettings, verify
from data_construction.verify.duplicates import NearDuplicates
from data_construction.verify.judge import Opinion, read_opinion
from data_construction.verify.summary import summary_table
from data_construction.vlm import BudgetReachedError, EndpointError, GaveUpError
from rollout.errors import DataError, RecipeError
from tests.data_construction.trace_files import Line, boxed, planned, read, write


@pytest.fixture(scope="module")
def lines(synthetic: Path) -> list[Line]:
    """Sound ones, with three faults in the midst."""
    found = planned(synthetic) + boxed(synthetic, "test")[:10]
    for n in (3, 9, 20):
        found[n]["exp"] = "another thing"
    return found


@pytest.fixture
def source(lines: list[Line], tmp_path: Path) -> Path:
    return write(tmp_path / "in" / "traces.jsonl", lines)


def run(source: Path, out: Path, root: Path, **rest: Any) -> VerifyReport:
    return asyncio.run(verify(source, out, Sources.parse([str(root)]), **rest))


def outcome(out: Path) -> dict[str, str]:
    return {name: (out / name).read_text() for name in ("verified.jsonl", "rejected.jsonl", "retry.jsonl")}


def test_verdicts_are_written_in_order_with_check_and_reason(source: Path, lines: list[Line], synthetic: Path) -> None:
    out = source.parent / "out"
    report = run(source, out, synthetic)
    verified, rejected = read(out / "verified.jsonl"), read(out / "rejected.jsonl")
    assert [d["id"] for d in rejected] == [lines[n]["id"] for n in (3, 9, 20)]
    assert all(d["check"] == "agreement" and "another thing" in d["reason"] for d in rejected)
    assert all(d["status"] == "rejected" and d["failures"][0]["check"] == "agreement" for d in rejected)
    assert verified == [d for n, d in enumerate(lines) if n not in (3, 9, 20)]
    assert (report.verified, dict(report.rejected)) == (len(lines) - 3, {"agreement": 3})
    retry = read(out / "retry.jsonl")
    assert [d["id"] for d in retry] == [d["id"] for d in rejected] and "record" not in retry[0]
    table = summary_table(report)
    assert f"{len(lines)} traces" in table and "agreement" in table and "3 have to be made again" in table


def test_an_interrupted_job_ends_like_an_undisturbed_one(
    source: Path, lines: list[Line], synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "calm", synthetic)
    calm, append = outcome(tmp_path / "calm"), JsonLines.append
    rng = random.Random(0)
    for n in range(8):
        out = tmp_path / f"killed{n}"
        for _ in range(3):
            left = rng.randrange(len(lines) // 4)

            def dies(self: JsonLines, value: Any) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                append(self, value)

            monkeypatch.setattr(JsonLines, "append", dies)
            with pytest.raises(KeyboardInterrupt):
                run(source, out, synthetic)
            monkeypatch.setattr(JsonLines, "append", append)
            torn = rng.choice(["verified.jsonl", "rejected.jsonl"])
            with (out / torn).open("a") as file:
                file.write('{"id": "revos/valid/half a li')
        assert run(source, out, synthetic).verified == len(lines) - 3
        assert outcome(out) == calm


def test_traces_made_again_are_taken_in(source: Path, lines: list[Line], synthetic: Path) -> None:
    out = source.parent / "out"
    run(source, out, synthetic)
    sound = {d["id"]: d for d in planned(synthetic)}
    again = {**copy.deepcopy(sound[lines[3]["id"]]), "id": lines[3]["id"] + "#2", "attempt": 2}
    still_bad = {**copy.deepcopy(lines[9]), "id": lines[9]["id"] + "#2", "attempt": 2}
    write(source, [*lines[:4], again, *lines[4:10], still_bad, *lines[10:]])  # `cot` puts them beside the first ones
    report = run(source, out, synthetic)
    verified = [d["id"] for d in read(out / "verified.jsonl")]
    assert verified[3] == again["id"] and report.total == len(lines) + 2 and report.verified == len(lines) - 2
    assert [(d["id"], d["attempt"]) for d in read(out / "retry.jsonl")] == [(still_bad["id"], 2), (lines[20]["id"], 1)]


def test_broken_lines_are_set_aside_by_number_and_the_rest_goes_on(
    source: Path, lines: list[Line], synthetic: Path
) -> None:
    raw = source.read_text().splitlines()
    raw[1] = raw[1][:200]
    raw[5] = json.dumps({**lines[5], "record": {"conversations": "none"}})
    raw[7] = json.dumps({**lines[7], "clip": "nowhere"})
    source.write_text("\n".join(raw))  # the last one is torn: no newline
    out = source.parent / "out"
    report = run(source, out, synthetic)
    bad = {d["id"]: d for d in read(out / "rejected.jsonl")}
    assert "line 2: not JSON" in bad["line 2"]["reason"] and bad["line 2"]["line"] == raw[1]
    assert "line 6" in bad["line 6"]["reason"] and "malformed" in bad["line 6"]["reason"]
    assert bad[lines[7]["id"]]["check"] == "no_data" and "'nowhere'" in bad[lines[7]["id"]]["reason"]
    assert report.set_aside == 3 and f"line {len(lines)}: torn" in report.torn
    assert report.total == len(lines) - 1
    source.write_text("\n".join(raw) + "\n")
    assert run(source, out, synthetic).total == len(lines)  # the torn line is whole now
    assert len(read(out / "rejected.jsonl")) == 6
    write(source, [{**d, "id": f"x{n}"} if n == 7 else d for n, d in enumerate(lines)])  # All mended, one of them new.
    mended = run(source, out, synthetic)
    assert mended.complete and mended.total == len(lines) and dict(mended.rejected) == {"agreement": 3}


def test_wrong_files_and_folders_are_named(source: Path, lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = tmp_path / "samples.jsonl"
    wrong.write_text('{"clip": "a"}\n')
    for file, what in (
        (wrong, "line 1: not a trace: no 'id'"),
        (write(tmp_path / "elsewhere.jsonl", [{**d, "clip": "x"} for d in lines[:3]]), "not one of 3 traces"),
    ):
        with pytest.raises(DataError, match=what):
            run(file, tmp_path / file.stem, synthetic)
    run(source, out, synthetic)
    with pytest.raises(DataError, match=r"verdicts are on traces that .* does not hold"):
        run(write(tmp_path / "other.jsonl", lines[10:]), out, synthetic)
    with pytest.raises(RecipeError, match="no check 'magic'"):
        run(source, tmp_path / "fresh", synthetic, settings=VerifySettings(skip=("magic",)))
    assert not (tmp_path / "fresh").exists()
    with pytest.raises(DataError, match="was verified with min_words = 8, now 3"):
        run(source, out, synthetic, settings=VerifySettings(min_words=3))
    assert run(source, out, synthetic, settings=VerifySettings(min_words=3), overwrite=True).total == len(lines)
    with JsonLines(out / "verified.jsonl"), pytest.raises(DataError, match="another job writes"):
        run(source, out, synthetic, settings=VerifySettings(min_words=3))
    with lock_folder(out), pytest.raises(DataError, match="another job writes"):
        run(source, out, synthetic, overwrite=True)
    assert len(read(out / "verified.jsonl")) == len(lines) - 3  # Nothing was removed from under the other job.
    with pytest.raises(DataError, match="add --root revos=PATH"):
        asyncio.run(verify(source, tmp_path / "o", Sources.parse([f"other={synthetic}"])))


class FakeJudge:
    """Rejects what it is told to, out of order; raises ``errors`` first."""

    def __init__(self, rejects: str, *errors: Exception) -> None:
        self.rejects, self.errors, self.stopped = rejects, list(errors), False
        self.asked: list[Sequence[dict[str, Any]]] = []

    async def opinion(self, messages: Sequence[dict[str, Any]]) -> Opinion:
        self.asked.append(messages)
        await asyncio.sleep(random.Random(len(self.asked)).random() / 100)
        if self.errors:
            raise self.errors.pop(0)
        bad = self.rejects in messages[1]["content"][-1]["text"]
        return read_opinion({"verdict": "Reject" if bad else "keep", "reason": "wrong object" if bad else None})

    def stop(self) -> None:
        self.stopped = True


def test_a_second_model_judges_what_passed(source: Path, lines: list[Line], synthetic: Path) -> None:
    judge = FakeJudge("the shape")
    out = source.parent / "out"
    report = run(source, out, synthetic, judge=judge, judge_name="fake", in_flight=8)
    assert len(judge.asked) == len(lines) - 3  # rejected ones cost nothing
    bad = [d["id"] for n, d in enumerate(lines) if n not in (3, 9, 20) and "the shape" in json.dumps(d["record"])]
    judged = [d for d in read(out / "rejected.jsonl") if d["check"] == "judge"]
    assert [d["id"] for d in judged] == bad and {d["reason"] for d in judged} == {"wrong object"}
    out_of = {d["id"] for d in read(out / "rejected.jsonl")}
    assert [d["id"] for d in read(out / "verified.jsonl")] == [d["id"] for d in lines if d["id"] not in out_of]
    # requests are made ready side by side, so the first trace need not be the first that is asked about
    contents = [asked[1]["content"] for asked in judge.asked]
    content = next(c for c in contents if f"Query: {lines[0]['exp']}\n" in c[-1]["text"])
    pictures = [c for c in content if c["type"] == "image_url"]
    assert 1 <= len(pictures) <= 8 and pictures[0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert "Step 1" in content[-1]["text"]
    assert report.rejected["judge"] == len(bad) > 0


@pytest.mark.parametrize("reason", ["no_json", "no_verdict", "refused"])
def test_a_model_that_gives_no_verdict_does_not_let_a_trace_pass(
    reason: str, lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    one = write(tmp_path / "one.jsonl", lines[:1])
    report = run(one, tmp_path / "a", synthetic, judge=FakeJudge("?", GaveUpError(reason, "so it says")))
    assert report.rejected == {"judge": 1} and report.complete


@pytest.mark.parametrize("reason", ["http_400", "rate_limited", "truncated", "timeout"])
def test_an_endpoint_that_fails_leaves_a_trace_without_verdict_and_is_asked_again(
    reason: str, lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    three, out = write(tmp_path / "three.jsonl", lines[:3]), tmp_path / "out"
    error = GaveUpError(reason, "the endpoint said no")
    report = run(three, out, synthetic, judge=FakeJudge("?", error), judge_name="fake")
    assert (report.verified, dict(report.rejected), dict(report.open)) == (2, {}, {reason: 1})
    assert not report.complete and "the endpoint said no" in report.first_open
    assert f"1 have no verdict (1 {reason}); the same command asks again" in summary_table(report)
    judge = FakeJudge("?")
    again = run(three, out, synthetic, judge=judge, judge_name="fake")
    assert again.complete and again.verified == 3 and len(judge.asked) == 1
    assert [d["id"] for d in read(out / "verified.jsonl")] == [d["id"] for d in lines[:3]]


@pytest.mark.parametrize("error", [BudgetReachedError("spend cap 1 reached"), EndpointError("no such model")])
def test_a_judge_that_can_answer_no_more_ends_the_job_in_order(
    error: Exception, source: Path, lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    class Spent(FakeJudge):
        async def opinion(self, messages: Sequence[dict[str, Any]]) -> Opinion:
            if len(self.asked) >= 10:
                raise error
            return await super().opinion(messages)

    judge = Spent("?")
    if isinstance(error, EndpointError):
        with pytest.raises(EndpointError, match="no such model"):
            run(source, tmp_path / "out", synthetic, judge=judge, judge_name="fake", in_flight=4)
    else:
        report = run(source, tmp_path / "out", synthetic, judge=judge, judge_name="fake", in_flight=4)
        assert report.stopped == str(error) and report.verified == 10 and not report.complete
        assert report.total + report.open["not asked"] == len(lines)
        assert "stopped: spend cap" in summary_table(report)
    assert judge.stopped
    found = [d["id"] for d in read(tmp_path / "out/verified.jsonl")]
    assert len(found) == 10 and found == [d["id"] for d in lines if d["id"] in found]
    calm = run(source, tmp_path / "calm", synthetic, judge=FakeJudge("?"), judge_name="fake")
    assert run(source, tmp_path / "out", synthetic, judge=FakeJudge("?"), judge_name="fake").complete and calm.complete
    assert outcome(tmp_path / "out") == outcome(tmp_path / "calm")


def test_a_frame_that_cannot_be_shown_to_the_judge_sets_its_trace_aside(
    lines: list[Line], synthetic: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(synthetic, tmp_path / "data"))
    source = write(tmp_path / "t.jsonl", [lines[0], *lines[-2:]])  # Of different clips.
    record, out = lines[0]["record"], tmp_path / "out"
    clip = open_dataset("revos", root, lines[0]["split"]).clip(lines[0]["clip"])
    frame = Path(clip.frames[record["cot_trace"][-1]["key_frame"]])
    whole = frame.read_bytes()
    frame.write_bytes(b"hello")
    report = run(source, out, root, judge=FakeJudge("?"), judge_name="fake")
    assert dict(report.rejected) == {"no_data": 1} and report.verified == 2
    assert str(frame) in report.first_aside and not report.complete
    frame.write_bytes(whole)  # A mended file is looked at again.
    assert run(source, out, root, judge=FakeJudge("?"), judge_name="fake").verified == 3


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(rng.choice(words, 80)) for _ in range(300)]
    found = NearDuplicates(0.75)
    for n, text in enumerate(texts):
        signature = found.signature(text)
        assert found.find(signature) is None
        found.add(str(n), signature)
    for n in range(0, 300, 7):
        changed = texts[n].split()
        changed[40] = "other"
        twin = found.find(found.signature(" ".join(changed).upper() + "."))
        assert twin is not None and twin[0] == str(n) and twin[1] < 1
        changed[::8] = ["else"] * len(changed[::8])
        assert found.find(found.signature(" ".join(changed))) is None


def test_duplicates_memory_is_bounded() -> None:
    found = NearDuplicates(0.9, window=64)
    for n in range(1000):
        found.add(str(n), found.signature(f"text number {n} about frame {n * 7} and no other one {n * 3}"))
    assert len(found._ids) == 64
    text = "text number {} about frame {} and no other one {}"
    assert found.find(found.signature(text.format(999, 6993, 2997))) == ("999", 1.0)
    assert found.find(found.signature(text.format(3, 21, 9))) is None  # made room long ago
    assert found.find(found.signature("short")) is None


def test_the_second_of_two_equal_traces_is_rejected(lines: list[Line], synthetic: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl", [lines[0], lines[1], {**lines[0], "id": lines[0]["id"] + "#2"}])
    report = run(twice, tmp_path / "out", synthetic)
    assert report.rejected == {"duplicate": 1}
    assert read(tmp_path / "out/rejected.jsonl")[0]["reason"] == f"1.00 like {lines[0]['id']}"
    same_id = write(tmp_path / "same_id.jsonl", [lines[0], lines[1], lines[0]])
    report = run(same_id, tmp_path / "same", synthetic)
    assert report.total == 2 and report.repeated == lines[0]["id"] and lines[0]["id"] in summary_table(report)
    assert run(twice, tmp_path / "off", synthetic, settings=VerifySettings(duplicate=2.0)).verified == 3


def test_vts_cot_records_as_released_can_be_verified(synthetic: Path, tmp_path: Path) -> None:
    sources = Sources.parse([str(synthetic)], "revos", "train")
    report = asyncio.run(verify(synthetic / "vts_cot_train.json", tmp_path / "out", sources))
    assert report.total == len(json.loads((synthetic / "vts_cot_train.json").read_text()))
    assert set(report.rejected) <= {"duplicate"} and report.share > 0.9
