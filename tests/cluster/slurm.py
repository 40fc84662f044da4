"""A Slurm of two nodes on one machine, from Debian's packages (slurm-wlm, munge), as root in a scratch folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """\
ClusterName=scratch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={kill_wait}
MessageTimeout=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=8000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Starts when it is made; ``close`` ends what it started."""

    def __init__(self, folder: Path, kill_wait: int = 120) -> None:
        missing = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
        if missing or os.getuid() != 0:
            raise RuntimeError(f"as root, with {', '.join(missing) or 'all programs'}: apt-get install slurm-wlm munge")
        self.folder = folder
        folder.mkdir(parents=True, mode=0o755)
        (folder / "state").mkdir()
        conf = CONF.format(host=socket.gethostname().split(".")[0], folder=folder, ports=_ports(3), kill_wait=kill_wait)
        (folder / "slurm.conf").write_text(conf)
        self.env = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._processes: list[subprocess.Popen[bytes]] = []
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{n}={folder}/munge.{n.split('-')[0]}" for n in ("socket", "pid-file", "log-file", "seed-file")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        self._start("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        self.wait_for_nodes()

    def _start(self, *command: str) -> None:
        out = (self.folder / f"{command[0]}.{len(self._processes)}.out").open("wb")
        env = {**os.environ, **self.env}
        self._processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True))
        time.sleep(1)

    def run(self, *command: str) -> str:
        env = {**os.environ, **self.env}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        return (done.stdout + done.stderr).strip()

    def wait_for_nodes(self, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while self.run("sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle", "idle"]:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.run('sinfo')}\n{self.run('scontrol', 'show', 'node')}")
            time.sleep(1)

    def close(self) -> None:
        self.run("scancel", "--user=root")
        self.run("scancel", "--full", "--signal=KILL", "--user=root")
        end = time.monotonic() + 60
        while self.run("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(1)
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found
