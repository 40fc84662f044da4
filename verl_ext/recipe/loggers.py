"""Can a logger that a recipe names be written to? Imports none of them, asks no network."""

from __future__ import annotations

import netrc
import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""Logger -> the package that it needs, by the name under which it is installed and imported."""
WANDB_SERVER = "https://api.wandb.ai"
WANDB_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
WANDB_ALONE = ("offline", "disabled", "dryrun")
"""Modes that need no key."""


def logger_problem(name: str) -> str | None:
    """Why the logger ``name`` would fail, with the remedy; None if it will not."""
    package = NEEDS.get(name)
    if package is not None and find_spec(package) is None:
        return f"{name}, but the package {package} is not installed: pip install {package}"
    if name == "wandb" and not has_wandb_key():
        return "wandb, but it has no key: run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
    return None


def has_wandb_key() -> bool:
    """Whether wandb finds a key where it looks for one (variables, settings, netrc), or is told to stay offline."""
    settings = _wandb_settings()
    mode = os.environ.get("WANDB_MODE") or settings.get("mode", "")
    if mode.lower() in WANDB_ALONE or settings.get("api_key") or any(os.environ.get(name) for name in WANDB_KEYS):
        return True
    server = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or WANDB_SERVER
    return _in_netrc(urlsplit(server).hostname or "")


def _wandb_settings() -> dict[str, str]:
    """What ``wandb login``, ``offline`` and ``init`` keep for the user and, above that, for this folder."""
    folder = os.environ.get("WANDB_CONFIG_DIR")
    user = Path(folder) if folder else Path.home() / ".config" / "wandb"
    here = Path(os.environ.get("WANDB_DIR") or ".") / "wandb"
    parser = ConfigParser(default_section="", interpolation=None)
    try:
        parser.read([user / "settings", here / "settings"], encoding="utf-8")
        return dict(parser["default"]) if parser.has_section("default") else {}
    except (ConfigError, UnicodeDecodeError):
        return {}


def _in_netrc(host: str) -> bool:
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
