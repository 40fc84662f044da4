"""What an exception of the ``openai`` package means for a request: wait and ask again, give up, or stop the job."""

from __future__ import annotations

import email.utils
import json
import random
import re
import time
from dataclasses import dataclass

import openai

LONGEST_WAIT = 3600.0
"""Seconds; a ``Retry-After`` beyond an hour is taken for a mistake."""
SCHEMA_WORDS = re.compile(r"response_format|json_schema|json_object|structured|grammar|guided|schema", re.I)
FATAL = {401: "the key is not accepted", 403: "the key may not do this", 404: "no such model or address"}


@dataclass(frozen=True)
class Trouble:
    """``reason`` is a short stable word for counting, ``what`` the sentence for the user."""

    reason: str
    what: str
    retry: bool = False
    fatal: bool = False
    """No request of this job can succeed."""
    wait: float | None = None
    """Seconds that the server asked for."""
    schema: bool = False
    """The endpoint refused the way in which structured output was asked for."""
    server_down: bool = False


def trouble_of(error: Exception) -> Trouble | None:
    """None for an exception that is not the endpoint's doing."""
    if isinstance(error, openai.APITimeoutError):
        return Trouble("timeout", "no answer in time", retry=True, server_down=True)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    if isinstance(error, openai.APIResponseValidationError | json.JSONDecodeError | UnicodeDecodeError):
        return Trouble("invalid_json", f"the answer is not JSON ({error})", retry=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return Trouble("connection", f"the connection failed ({cause or error})", retry=True, server_down=True)
    return None


def _of_status(error: openai.APIStatusError) -> Trouble:
    status, said = error.status_code, f"HTTP {error.status_code}: {_message(error)}"
    if status in FATAL:
        return Trouble(f"http_{status}", f"{FATAL[status]} ({said})", fatal=True)
    if status == 429:
        if error.code == "insufficient_quota":
            return Trouble("quota", f"no credit left ({said})", fatal=True)
        return Trouble("rate_limited", said, retry=True, wait=retry_after(error))
    if status in (408, 409, 425) or status >= 500:
        return Trouble(f"http_{status}", said, retry=True, wait=retry_after(error), server_down=status >= 500)
    return Trouble(f"http_{status}", said, schema=status in (400, 422) and bool(SCHEMA_WORDS.search(said)))


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or error.message).split())[:300]


def retry_after(error: openai.APIStatusError, now: float | None = None) -> float | None:
    """Seconds that the answer's ``Retry-After`` asks for (a number or a date); None without a readable one."""
    headers = error.response.headers
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        wait = float(milliseconds) / 1000 if milliseconds is not None else float(value) if value is not None else None
    except ValueError:
        parsed = email.utils.parsedate_tz(value or "")
        wait = None if parsed is None else email.utils.mktime_tz(parsed) - (time.time() if now is None else now)
    return None if wait is None or wait != wait else min(max(wait, 0.0), LONGEST_WAIT)


def pause(attempt: int, backoff: float, longest: float, wait: float | None, rng: random.Random) -> float:
    """Seconds before the next attempt, after ``attempt`` (1, 2 …) failed: doubling, with jitter of a half.

    Never less than the server asked for; the jitter then comes on top, so that requests do not return as one.
    """
    own = min(longest, backoff * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0)
    return own if wait is None else wait + min(own, backoff) * 0.5
