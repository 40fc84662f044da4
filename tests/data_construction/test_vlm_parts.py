"""Waiting times, cache keys and the reading of replies, without a server."""

from __future__ import annotations

import email.utils
import json
import os
import random
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from data_construction.vlm import BadReplyError, Ledger, Prices, ResponseCache, Usage  # noqa: E402
from data_construction.vlm.cache import GROWING, CachedReply  # noqa: E402
from data_construction.vlm.parsing import parse_object  # noqa: E402
from data_construction.vlm.secret import Secret  # noqa: E402
from data_construction.vlm.trouble import LONGEST_WAIT, pause, retry_after  # noqa: E402

NOW = 1_700_000_000.0


class Response:
    """As much of an HTTP answer as an error of the package needs."""

    status_code, request = 429, None

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": email.utils.formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": email.utils.formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "1e9"}, LONGEST_WAIT),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    error = openai.RateLimitError("slow down", response=Response(headers), body=None)
    assert retry_after(error, NOW) == seconds


def test_pauses_double_with_jitter_up_to_a_limit_and_never_undercut_the_server() -> None:
    rng = random.Random(0)
    for attempt in range(1, 12):
        full = min(20.0, 2.0 ** (attempt - 1))
        drawn = [pause(attempt, 1.0, 20.0, None, rng) for _ in range(50)]
        assert all(full / 2 <= d <= full for d in drawn) and len(set(drawn)) > 1
    assert all(7.0 <= pause(9, 1.0, 20.0, 7.0, rng) <= 7.5 for _ in range(50))


def key(**content: Any) -> str:
    return ResponseCache.key(content)


def test_keys_follow_content_and_nothing_else() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    assert key(**body) == key(messages=body["messages"], model="m")
    different = [
        key(**body),
        key(**body | {"model": "n"}),
        key(**body, temperature=0.5),
        key(**body, temperature=0.25),
        key(**body, salt=""),
        key(model="m", messages=[{"role": "user", "content": ["a"]}]),
        key(model="m", messages=[{"role": "user", "content": ["a", ""]}]),
        key(model="m", messages=[{"role": "user", "content": ["", "a"]}]),
        key(model="m", messages=[{"role": "usera", "content": ""}]),
    ]
    assert len(set(different)) == len(different)
    assert len(different[0]) == 64


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '  ```json\n{"a": 1}\n```',
        'Here it is: {"a": 1}. Anything else?',
        '<think>{"a": 2} no</think> {"a": 1}',
        '{not json} {"a": 1}',
        'Draft: {"a": 2} hmm</think>\n{"a": 1}',
        'Sure.<think>{"a": 2}</think>{"a": 1}',
        '<think>{"a": 2}</think>x<think>{"a": 3}</think>{"a": 1}',
        '<thinking>{"a": 2}</thinking>{"a": 1}',
        '<THINK>{"a": 2}</THINK>{"a": 1}',
        '{"a": 2} so</think>and <think>{"a": 3}</think>{"a": 1}',
        '<think>{"a": 2} <think>{"a": 3}</think>{"a": 1}',
        '{"a": 1}<think>{"a": 2}</think>',
        '{"a": 1}<think>{"a": 2}',
    ],
)
def test_the_object_is_found_wherever_the_model_put_it(text: str) -> None:
    assert parse_object(text) == {"a": 1}


@pytest.mark.parametrize("text", ["", "no", "[1, 2]", '{"a": ', "{" * 3000, '<think>{"a": 1} but', '{"a": 1}</think>'])
def test_a_text_without_object_is_a_bad_reply(text: str) -> None:
    with pytest.raises(BadReplyError) as error:
        parse_object(text)
    assert error.value.reason == "no_json" and len(str(error.value)) < 300


def test_a_key_is_hidden_however_it_is_written() -> None:
    key = "sk-back\\slash'and\"quote"
    for form in (key, repr(key), repr(key.encode()), json.dumps(key)):
        hidden = Secret(key).hide(f"wrong key {form}, see there")
        assert "slash" not in hidden and hidden.endswith(", see there")
    assert Secret("none").hide("none of these") == "none of these"


def test_replies_that_a_killed_job_left_half_written_are_removed(tmp_path: Path) -> None:
    cache, reply = ResponseCache(tmp_path), CachedReply("{}", 1, 2)
    cache.write("ab" * 32, reply)
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    left = tmp_path / GROWING / f".cd.{host}-{dead.pid}.partial"
    others = [
        tmp_path / GROWING / f".cd.{name}.partial" for name in (f"{host}-{os.getppid()}", f"elsewhere-{dead.pid}")
    ]
    for path in (left, *others):
        path.write_text("{")
    assert ResponseCache(tmp_path).read("ab" * 32) == reply
    assert not left.exists() and all(path.exists() for path in others)


def test_reservations_learn_how_large_prompts_really_are() -> None:
    ledger = Ledger(Prices(1.0, 0.0), cap=1.0)
    assert ledger.reserve(100, 50) == pytest.approx(1e-4)
    ledger.add(Usage(300, 10, 3e-4), estimated_prompt=100)
    assert ledger.reserve(100, 50) == pytest.approx(3e-4)
    assert ledger.spent == pytest.approx(3e-4)
