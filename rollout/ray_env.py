"""Which Ray a process uses, and whether the sockets of one of our own fit where they would lie. Imports no Ray."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ADDRESS_ENV = "RAY_ADDRESS"
SOCKET_BYTES = 107
"""The longest path that a Unix socket may have on Linux."""
RAY_TAIL = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray (2.60) puts behind the temporary folder, with the longest process id."""
VLLM_TAIL = "/00000000-0000-0000-0000-000000000000"
"""And vLLM."""
MERGE_ENV = "RAY_OVERRIDE_JOB_RUNTIME_ENV"
CACHE = "runtime_resources/working_dir_files"
"""Below Ray's temporary folder: where a job's ``--working-dir`` is unpacked, for as long as Ray keeps it."""


def ray_address() -> str | None:
    """``address`` for ``ray.init``: ``local``, a Ray of our own, unless the environment names a cluster to join.

    Without an address Ray joins whatever somebody else's ``ray start`` left behind on the machine, alive or dead.
    """
    return None if joins_a_cluster() else "local"


def joins_a_cluster() -> bool:
    """Whether ``RAY_ADDRESS`` names a running cluster, which then says itself what it has."""
    return os.environ.get(ADDRESS_ENV, "").strip() not in ("", "local")


def merge_with_the_jobs_variables() -> None:
    """Before ``ray.init``: a job's runtime environment may name a variable that we set too, and ours then counts.

    Without it Ray (2.60) raises "Failed to merge the Job's runtime env".
    """
    os.environ.setdefault(MERGE_ENV, "1")


def is_in_rays_cache(folder: str | Path) -> bool:
    """Whether a folder lies in the unpacked ``--working-dir`` of a Ray job, which goes with Ray or the next job."""
    return f"/{CACHE}/" in f"{Path(folder).resolve()}/"


def socket_problem() -> str | None:
    """Why sockets under the temporary folder could not be made, with the remedy; None if they can."""
    ray, own = os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR") or tempfile.gettempdir()
    if not joins_a_cluster() and (said := _too_long("RAY_TMPDIR" if ray else "TMPDIR", ray or own, RAY_TAIL, "Ray's")):
        return said
    rpc = os.environ.get("VLLM_RPC_BASE_PATH")
    return _too_long("VLLM_RPC_BASE_PATH" if rpc else "TMPDIR", rpc or own, VLLM_TAIL, "vLLM's")


def _too_long(name: str, folder: str, tail: str, whose: str) -> str | None:
    length, most = len(os.fsencode(folder.rstrip("/"))), SOCKET_BYTES - len(tail)
    if length <= most:
        return None
    return (
        f"{name}: {Path(folder)} has {length} bytes, {whose} sockets below it may have {SOCKET_BYTES} in all, so that "
        f"{most} are left for it; export {name}=/tmp or another short folder"
    )
