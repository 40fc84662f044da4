"""Asking a vision-language model behind an OpenAI-compatible endpoint: many requests at once, none paid for twice."""

from data_construction.vlm.cache import ResponseCache
from data_construction.vlm.client import Client
from data_construction.vlm.errors import BadReplyError, BudgetReachedError, EndpointError, GaveUpError, StoppedError
from data_construction.vlm.exchange import Prompt, Reply
from data_construction.vlm.ledger import Ledger
from data_construction.vlm.settings import ClientSettings
from data_construction.vlm.usage import Prices, Usage

__all__ = [
    "BadReplyError",
    "BudgetReachedError",
    "Client",
    "ClientSettings",
    "EndpointError",
    "GaveUpError",
    "Ledger",
    "Prices",
    "Prompt",
    "Reply",
    "ResponseCache",
    "StoppedError",
    "Usage",
]
