"""An endpoint on this machine is asked directly, whatever proxies the environment has."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from data_construction.vlm import Client, ClientSettings, EndpointError, Prompt, ResponseCache
from data_construction.vlm.proxy import http_client, is_here, proxy_of
from rollout.errors import EnvironmentMismatchError
from tests.data_construction.fault_server import FaultServer, running

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
DEAD = "http://user:word@127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


HERE = ["127.0.0.1", "127.3.4.5", "localhost", "LocalHost", "me.localhost", "[::1]", "0.0.0.0", socket.gethostname()]


@pytest.mark.parametrize("host", HERE)
def test_hosts_on_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    assert is_here(f"http://{host}:8000/v1") and proxy_of(f"http://{host}:8000/v1") is None


def test_other_hosts_go_through_the_proxy_that_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of("http://teacher:8000/v1") is None
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    assert proxy_of("http://teacher:8000/v1") == "http_proxy http://127.0.0.1:9"
    assert proxy_of("https://teacher/v1") is None
    monkeypatch.setenv("ALL_PROXY", "proxy:3128")
    assert proxy_of(None) == "all_proxy proxy:3128"  # the package's own endpoint
    monkeypatch.setenv("no_proxy", "teacher,.site")
    assert proxy_of("http://teacher:8000/v1") is None and proxy_of("http://a.site/v1") is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    assert proxy_of(None) is None


def ask(url: str, cache: Path) -> str:
    async def once() -> str:
        settings = ClientSettings(model="m", base_url=url, attempts=1, backoff=0.0, timeout=5.0)
        client = Client(settings, ResponseCache(cache))
        client.health._silent = 7  # the eighth that gets no answer ends a job
        try:
            reply = await client.ask(Prompt([{"role": "user", "content": "summary"}], {"type": "object"}, str))
            return reply.value
        finally:
            await client.close()

    return asyncio.run(once())


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", [DEAD, "socks5://127.0.0.1:9"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_requests_arrive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, proxy: str, host: str) -> None:
    monkeypatch.setenv(name, proxy)
    with running(FaultServer()) as server:
        assert "keyframe" in ask(server.url.replace("127.0.0.1", host), tmp_path)
        assert sum(server.bodies.values()) == 1


def test_a_proxy_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    with pytest.raises(EndpointError, match=r"or the proxy \(http_proxy http://127\.0\.0\.1:9\) in the way: NO_PROXY"):
        ask("http://teacher.invalid:8000/v1", tmp_path)


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://proxy:70")
    with pytest.raises(EnvironmentMismatchError, match=r"all_proxy gopher://proxy:70\) cannot be used: .*NO_PROXY"):
        http_client("http://teacher:8000/v1")
