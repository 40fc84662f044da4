"""On the machines of a Slurm job: ``python -m verl_ext.launch.node address|head|wait|worker``.

Ray's ports are free ones and its daemons have TERM blocked: when the scheduler sends it to every process, the run saves
first (see `verl_ext.run.process`). The job's script ends them by KILL.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

from rollout.errors import WorkerError
from rollout.term import block_term
from verl_ext.launch.scheduler import LEAST_CPUS
from verl_ext.run.cluster import WAIT_ENV, start_seconds
from verl_ext.supervised.run import free_port

INTERFACE_ENV = "NCCL_SOCKET_IFNAME"
OWN_PORTS = ("--min-worker-port=0", "--max-worker-port=0")
PLAIN = ("--disable-usage-stats", "--log-color=false")
"""What Ray says goes to the job's log."""


def address() -> str:
    """``ip:port`` of this machine, a port that nothing listens on."""
    return f"{own_ip()}:{free_port()}"


def own_ip() -> str:
    """As Ray finds it, by the way that leads out; without one that is loopback, and an interface's is taken."""
    import psutil
    from ray.util import get_node_ip_address

    if not (found := str(get_node_ip_address())).startswith("127."):
        return found
    wanted = os.environ.get(INTERFACE_ENV, "").split(",")[0].lstrip("=^")
    named = {
        name: [a.address for a in addresses if a.family == socket.AF_INET] for name, addresses in _interfaces(psutil)
    }
    others = [ip for name in sorted(named, key=lambda n: not n.startswith(wanted or "\0")) for ip in named[name]]
    return next((ip for ip in others if not ip.startswith("127.")), found)


def _interfaces(psutil: Any) -> list[tuple[str, list[Any]]]:
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return [(name, found) for name, found in psutil.net_if_addrs().items() if name in up]


def wait_for(where: str, seconds: float) -> None:
    """Until something listens there.

    Raises:
        WorkerError: nothing did in time.
    """
    host, _, port = where.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as e:
            if time.monotonic() > end:
                raise WorkerError(
                    f"no Ray listens at {where} after {seconds:.0f} s ({e}); what its start said is above. Set "
                    f"cluster.environment.{WAIT_ENV} to wait longer"
                ) from e
            time.sleep(1)


def ray_start(options: list[str], gpus: str) -> None:
    """Become ``ray start``, in the foreground."""
    cpus = max(LEAST_CPUS, len(os.sched_getaffinity(0)))
    os.makedirs(os.environ["RAY_TMPDIR"], mode=0o700, exist_ok=True)  # its sockets are nobody else's
    block_term()
    words = ["start", "--block", *PLAIN, f"--num-cpus={cpus}", f"--num-gpus={gpus}", *OWN_PORTS, *options]
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *words])


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "address":
        print(address())
        return
    host, _, port = rest[0].rpartition(":")
    if role == "head":
        own = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
        ray_start([*own, f"--ray-client-server-port={free_port()}", f"--temp-dir={os.environ['RAY_TMPDIR']}"], rest[1])
    wait_for(rest[0], start_seconds())
    if role == "worker":
        ray_start([f"--address={rest[0]}"], rest[1])


if __name__ == "__main__":
    try:
        main()
    except WorkerError as e:
        sys.exit(f"{os.environ.get('SLURMD_NODENAME', socket.gethostname())}: {e}")
