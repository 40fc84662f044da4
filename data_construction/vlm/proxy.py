"""Which way requests take to an endpoint: one on this machine is asked directly, whatever proxies a cluster sets."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from rollout.errors import EnvironmentMismatchError


def is_here(base_url: str | None) -> bool:
    """Whether the endpoint is on this machine: loopback, an address that stands for all, or the machine's own name."""
    host = _host(base_url)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost") or host == socket.gethostname().lower()
    return address.is_loopback or address.is_unspecified


def proxy_of(base_url: str | None) -> str | None:
    """``http_proxy http://proxy:3128`` (without a password) if requests to the endpoint go through one."""
    scheme, host = urlsplit(_url(base_url)).scheme or "https", _host(base_url)
    if is_here(base_url) or proxy_bypass(host):
        return None
    proxies = getproxies_environment()
    kind = scheme if scheme in proxies else "all"
    if kind not in proxies:
        return None
    scheme, mark, place = proxies[kind].rpartition("://")
    return f"{kind}_proxy {scheme}{mark}{place.rpartition('@')[2]}"


def http_client(base_url: str | None) -> Any:
    """The ``openai`` package's own client, without proxies where the endpoint is on this machine.

    Raises:
        EnvironmentMismatchError: a proxy of the environment cannot be used.
    """
    from openai import DefaultAsyncHttpxClient

    try:
        return DefaultAsyncHttpxClient(trust_env=not is_here(base_url))
    except (ImportError, ValueError) as error:  # no package for SOCKS, an address that is none
        raise EnvironmentMismatchError(
            f"the proxy of the environment ({proxy_of(base_url) or 'http_proxy, https_proxy or all_proxy'}) cannot be "
            f"used: {error}; unset it, or name the endpoint's host in NO_PROXY"
        ) from error


def _url(base_url: str | None) -> str:
    return base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


def _host(base_url: str | None) -> str:
    return (urlsplit(_url(base_url)).hostname or "").lower()
