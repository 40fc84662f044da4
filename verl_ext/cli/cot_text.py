"""What ``videoseg data cot`` tells at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_construction.generate import Estimate, Job, Summary
    from data_construction.vlm import Ledger


def estimate_text(estimate: Estimate, job: Job) -> str:
    from data_construction.vlm.proxy import proxy_of

    e = estimate
    lines = [f"{e.items} items, {e.there} of them already there; {e.requests} requests"]
    lines.append(f"about {e.prompt_tokens:,} prompt tokens, at most {e.completion_tokens:,} of replies")
    if job.client.prices.known:
        lines.append(f"cost at most about {e.cost:,.2f} (at {job.client.prices.prompt:g} and "
                     f"{job.client.prices.completion:g} per million tokens)")  # fmt: skip
    else:
        lines.append("cost: give --prices PROMPT REPLY (per million tokens)")
    if proxy := proxy_of(job.client.base_url):
        lines.append(f"requests go through the environment's proxy: {proxy}")
    lines += [f"would be set aside: {n} {code}" for code, n in e.set_aside.most_common()]
    return "\n".join(lines)


def summary_text(summary: Summary, ledger: Ledger, out: Path) -> str:
    s = summary
    lines = [f"{out}: {s.there + s.made} of {s.items} traces ({s.made} made now) in {s.seconds:.0f} s"]
    lines.append(f"requests: {ledger.answered} answered, {ledger.cached} from the cache, "
                 f"{ledger.retried.total()} asked again{_reasons(ledger.retried)}")  # fmt: skip
    tokens = f"tokens: {ledger.usage.prompt_tokens:,} of prompts, {ledger.usage.completion_tokens:,} of replies"
    spent = f"; cost {ledger.usage.cost:.4f}, with earlier runs {ledger.spent:.4f}" if ledger.prices.known else ""
    lines.append(tokens + spent)
    if s.failed:
        lines.append(f"failed: {s.failed.total()}{_reasons(s.failed)}; see {out / 'failed.jsonl'}")
    if s.set_aside:
        lines.append(f"set aside, bad data: {s.set_aside.total()}{_reasons(s.set_aside)}; see {out / 'failed.jsonl'}")
    if s.stopped:
        lines.append(f"stopped: {s.stopped}; the same command goes on from here")
    return "\n".join(lines)


def _reasons(counts: Any) -> str:
    return f" ({', '.join(f'{n} {reason}' for reason, n in counts.most_common())})" if counts else ""
