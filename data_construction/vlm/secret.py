"""Keeping a key out of every message."""

from __future__ import annotations

import json

SHORTEST_KEY = 8
"""Below this many characters a key is a placeholder, and hiding it would garble messages."""


class Secret:
    """Some endpoints repeat the key that they did not like; some errors show it as a program would write it."""

    def __init__(self, key: str) -> None:
        forms = {key, repr(key)[1:-1], json.dumps(key)[1:-1]}
        self._forms = sorted(forms, key=len, reverse=True) if len(key) >= SHORTEST_KEY else []

    def hide(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "***")
        return text
