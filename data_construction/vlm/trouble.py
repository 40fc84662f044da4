"""What an exception of the ``openai`` package means for a request: wait and ask again, give up, or stop the job."""

from __future__ import annotations

import email.utils
import json
import random
import re
import time
from dataclasses import dataclass
from typing import Any

import openai

from data_construction.vlm.dialect import Part

LONGEST_WAIT = 3600.0
"""Seconds; a ``Retry-After`` beyond an hour is taken for a mistake."""
SCHEMA_WORDS = re.compile(r"response_format|json_schema|json_object|structured|grammar|guided|schema", re.I)
REFUSAL_WORDS = re.compile(
    r"unsupported|not (?:supported|allowed|permitted|valid)|does(?: not|n't) support|unknown|unrecogni[sz]ed|"
    r"deprecated|extra (?:inputs|fields)|use \W?max_completion_tokens",
    re.I,
)
FATAL = {401: "the key is not accepted", 402: "no credit left", 404: "no such model or address"}


@dataclass(frozen=True)
class Trouble:
    """``reason`` is a short stable word for counting, ``what`` the sentence for the user."""

    reason: str
    what: str
    retry: bool = False
    fatal: bool = False
    """No request of this job can succeed."""
    fatal_at_first: bool = False
    """Nor can one after this, unless one has before: then it is about this request."""
    wait: float | None = None
    """Seconds that the server asked for."""
    refused: tuple[Part, ...] = ()
    """What the endpoint may not take in a request: there may be another wording."""
    server_down: bool = False


def trouble_of(error: Exception) -> Trouble | None:
    """None for an exception that is not the endpoint's doing."""
    if isinstance(error, openai.APITimeoutError):
        return Trouble("timeout", "no answer in time", retry=True, server_down=True)
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)
        return _of_status(error.status_code, message, error.code, error.param, retry_after(error))
    if isinstance(error, openai.APIResponseValidationError | json.JSONDecodeError | UnicodeDecodeError):
        return Trouble("invalid_json", f"the answer is not JSON ({error})", retry=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return Trouble("connection", f"the connection failed ({cause or error})", retry=True, server_down=True)
    return None


def trouble_inside(error: Any) -> Trouble:
    """Of the ``error`` in an answer whose own status is 200: gateways pass a model's failure on like that."""
    found = error if isinstance(error, dict) else {"message": error}
    code = str(found.get("code"))
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    return _of_status(status, str(found.get("message") or error), code, None, None)


def _of_status(status: int, message: str, code: str | None, param: str | None, wait: float | None) -> Trouble:
    said = f"HTTP {status}: {' '.join(message.split())[:300]}"
    reason = f"http_{status}"
    if status in FATAL:
        return Trouble(reason, f"{FATAL[status]} ({said})", fatal=True)
    if status == 403:  # Some gateways answer so to one picture or text that they do not like.
        return Trouble(reason, f"the key may not do this, or the request is not allowed ({said})", fatal_at_first=True)
    if status == 429:
        if code == "insufficient_quota":
            return Trouble("quota", f"no credit left ({said})", fatal=True)
        return Trouble("rate_limited", said, retry=True, wait=wait)
    if status in (408, 409, 425) or status >= 500:
        return Trouble(reason, said, retry=True, wait=wait, server_down=status >= 500)
    return Trouble(reason, said, refused=_refused(f"{message} {param or ''}") if status in (400, 422) else ())


def _refused(text: str) -> tuple[Part, ...]:
    """Which parts of the request the endpoint may not have taken, as far as its words tell."""
    found: list[Part] = []
    if REFUSAL_WORDS.search(text):
        found += ["max_tokens"] if "max_tokens" in text or "max_completion_tokens" in text else []
        found += ["temperature"] if "temperature" in text.lower() else []
    return (*found, "schema") if SCHEMA_WORDS.search(text) else tuple(found)


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
