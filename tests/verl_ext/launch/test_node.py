"""What runs on the machines of a Slurm job."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from rollout.errors import WorkerError
from verl_ext.launch.node import INTERFACE_ENV, own_ip, wait_for


def found(monkeypatch: pytest.MonkeyPatch, ray: str, **interfaces: str) -> None:
    import ray.util as ray_util

    monkeypatch.setattr(ray_util, "get_node_ip_address", lambda: ray)
    addresses = {n: [SimpleNamespace(family=socket.AF_INET, address=ip)] for n, ip in interfaces.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {n: SimpleNamespace(isup=n != "down0") for n in interfaces})


def test_the_address_is_one_that_other_machines_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INTERFACE_ENV, raising=False)
    found(monkeypatch, "10.0.0.5", lo="127.0.0.1", eth0="10.0.0.5")
    assert own_ip() == "10.0.0.5"
    # compute nodes without a way out: Ray finds loopback
    found(monkeypatch, "127.0.0.1", lo="127.0.0.1", down0="10.9.9.9", eth0="10.0.0.5", ib0="10.1.0.5")
    assert own_ip() == "10.0.0.5"
    monkeypatch.setenv(INTERFACE_ENV, "ib")
    assert own_ip() == "10.1.0.5"
    found(monkeypatch, "127.0.0.1", lo="127.0.0.1")
    assert own_ip() == "127.0.0.1"


def test_waiting_for_a_ray_that_does_not_come_ends_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        with pytest.raises(WorkerError, match=rf"no Ray listens at 127.0.0.1:{port} after 0 s .*RAY_START_SECONDS"):
            wait_for(f"127.0.0.1:{port}", 0)
        listening.listen()
        wait_for(f"127.0.0.1:{port}", 0)
