"""The client: bounded concurrency, patience with the endpoint, a spend cap, and replies that are checked and kept."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, TypeVar

from data_construction.vlm.cache import CachedReply, ResponseCache
from data_construction.vlm.dialect import Dialect
from data_construction.vlm.errors import (
    BadReplyError,
    BudgetReachedError,
    EndpointError,
    GaveUpError,
    StoppedError,
)
from data_construction.vlm.exchange import Answer, Prompt, Reply
from data_construction.vlm.health import Health
from data_construction.vlm.ledger import Ledger
from data_construction.vlm.parsing import parse_object
from data_construction.vlm.proxy import http_client, proxy_of
from data_construction.vlm.secret import Secret
from data_construction.vlm.settings import ClientSettings
from data_construction.vlm.usage import Usage
from rollout.errors import EnvironmentMismatchError

if TYPE_CHECKING:
    from data_construction.vlm.trouble import Trouble

T = TypeVar("T")
ROOM_SECONDS = 0.05
"""Between two looks at whether the requests in flight have left room under the spend cap."""


class Client:
    """Make it inside the event loop that uses it; close it there. Raises RecipeError if a key is needed and not set,
    EnvironmentMismatchError for a proxy that cannot be used.

    ``stop`` lets requests in flight finish and sends no more; whoever asks or waits to ask gets StoppedError.
    """

    def __init__(self, settings: ClientSettings, cache: ResponseCache, ledger: Ledger | None = None) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as e:
            raise EnvironmentMismatchError("asking a model needs the package openai: pip install 'openai>=2'") from e

        self.settings, self.cache = settings, cache
        self.ledger = ledger or Ledger(settings.prices, settings.max_cost)
        key = settings.api_key()
        self._secret = Secret(key)
        # Its own retries are off: they would not be counted, capped or held to Retry-After beyond a minute.
        self._api = AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
            http_client=http_client(settings.base_url),
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._stop = asyncio.Event()
        self._dialect = Dialect.first(settings)
        self.health = Health(proxy_of(settings.base_url))
        self._not_before = 0.0
        self._rng = random.Random()

    async def ask(self, prompt: Prompt[T]) -> Reply[T]:
        """One accepted reply.

        Raises:
            GaveUpError: this request failed for good.
            EndpointError: no request can succeed.
            BudgetReachedError, StoppedError: nothing was sent (again).
        """
        failures = bad = 0
        wasted = Usage()
        while True:
            dialect = self._dialect
            key = self.cache.key(dialect.body(self.settings, prompt) | {"salt": prompt.salt})
            kept = self._from_cache(prompt, key)
            if kept is not None:
                return kept
            outcome = await self._attempt(prompt, dialect)
            if isinstance(outcome, Answer):
                self.health.answered()
                try:
                    value = prompt.check(outcome.parse())
                except BadReplyError as e:
                    bad += 1
                    wasted += outcome.usage
                    if bad >= self.settings.reply_attempts:
                        raise self._gave_up(e.reason, str(e), wasted) from e
                    self.ledger.retried[e.reason] += 1
                    continue
                self.cache.write(key, outcome.kept)
                self.ledger.answered += 1
                return Reply(value, outcome.usage, cached=False)
            if outcome.refused and self._reword(dialect, outcome):
                continue
            if outcome.fatal or (outcome.fatal_at_first and not self.health.served):
                raise EndpointError(f"{self._api.base_url}: {self._secret.hide(outcome.what)}")
            failures += 1
            if not outcome.retry or failures >= self.settings.attempts:
                tried = f" after {failures} attempts" if failures > 1 else ""
                error = self._gave_up(outcome.reason, outcome.what + tried, wasted, outcome.server_down)
                self.health.gave_up(error)
                raise error
            self.ledger.retried[outcome.reason] += 1
            await self._back_off(failures, outcome.wait)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def close(self) -> None:
        await self._api.close()

    def _from_cache(self, prompt: Prompt[T], key: str) -> Reply[T] | None:
        kept = self.cache.read(key)
        if kept is None:
            return None
        try:
            value = prompt.check(parse_object(kept.text))
        except BadReplyError:
            return None  # Kept under an earlier, laxer check.
        self.ledger.cached += 1
        return Reply(value, self.settings.prices.usage(kept.prompt_tokens, kept.completion_tokens), cached=True)

    async def _attempt(self, prompt: Prompt[T], dialect: Dialect) -> Answer | Trouble:
        from openai.types.chat import ChatCompletion

        from data_construction.vlm.trouble import Trouble, trouble_of

        async with self._slots:
            await self._wait(self._not_before - asyncio.get_running_loop().time())
            reserved = await self._reserve(prompt.prompt_tokens)
            self.ledger.sent += 1
            try:
                async with asyncio.timeout(self.settings.timeout):  # The package's own is for each read alone.
                    # Not chat.completions.create: it walks through every part of every message, 3 ms for 20 images.
                    answer = await self._api.post(
                        "/chat/completions", cast_to=ChatCompletion, body=dialect.body(self.settings, prompt)
                    )
            except TimeoutError:
                return Trouble("timeout", "no answer in time", retry=True, server_down=True)
            except Exception as e:
                trouble = trouble_of(e)
                if trouble is None:
                    raise
                return trouble
            finally:
                self.ledger.release(reserved)
        return self._read(answer, prompt.prompt_tokens)

    def _read(self, answer: Any, estimated_prompt: int) -> Answer | Trouble:
        """The first choice. An endpoint that does not count tokens is taken to have used the estimate."""
        from data_construction.vlm.trouble import Trouble, trouble_inside

        choices = getattr(answer, "choices", None) or [None]
        error = getattr(answer, "error", None) or getattr(choices[0], "error", None)
        if error:
            return trouble_inside(error)
        message = getattr(choices[0], "message", None)
        if message is None:
            return Trouble("invalid_json", "the answer is not a chat completion", retry=True)
        text, counted = str(message.content or ""), answer.usage
        prompt_tokens = counted.prompt_tokens if counted else estimated_prompt
        completion_tokens = counted.completion_tokens if counted else len(text) // 4
        usage = self.settings.prices.usage(prompt_tokens, completion_tokens)
        self.ledger.add(usage, estimated_prompt)
        ended, refusal = getattr(choices[0], "finish_reason", None), getattr(message, "refusal", None)
        if refusal or ended == "content_filter":
            return Trouble("refused", f"the model refused: {refusal or 'content filter'}")
        return Answer(CachedReply(text, prompt_tokens, completion_tokens), usage, cut=ended == "length")

    async def _reserve(self, prompt_tokens: int) -> float:
        """Near the cap wait for what is in flight: it mostly costs less than was set aside for it.

        Raises BudgetReachedError once nothing is and the cap is still in the way.
        """
        while True:
            try:
                return self.ledger.reserve(prompt_tokens, self.settings.max_tokens)
            except BudgetReachedError:
                if not self.ledger.in_flight:
                    raise
                await self._wait(ROOM_SECONDS)

    def _reword(self, used: Dialect, trouble: Trouble) -> bool:
        """Ask for less from now on; False if nothing less may be asked for."""
        if self._dialect != used:
            return True  # Another request has found out meanwhile.
        other = used.without(trouble.refused)
        self._dialect = other or used
        return other is not None

    async def _back_off(self, failures: int, wait: float | None) -> None:
        """Wait, and where the server named the time, let every other request wait it out as well."""
        from data_construction.vlm.trouble import pause

        s = self.settings
        if wait is not None:
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + wait)
        await self._wait(pause(failures, s.backoff, s.backoff_max, wait, self._rng))

    async def _wait(self, seconds: float) -> None:
        """Sleep; raises StoppedError as soon as the job is told to stop."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise StoppedError("the job was told to stop")

    def _gave_up(self, reason: str, what: str, wasted: Usage, server_down: bool = False) -> GaveUpError:
        return GaveUpError(reason, self._secret.hide(what), server_down, wasted)
