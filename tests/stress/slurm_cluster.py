"""A Slurm of its own on one computer: a controller and three nodes on loopback, and no trace of it.

All it writes lies below one directory, but for the control groups of its nodes. Whatever it starts
has SLURM_CONF in its environment, with a path that no other process knows, and is ended by that.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "mpirun")
PACKAGES = ("slurm-wlm", "munge", "openmpi-bin")
# Control groups have the names of nodes: those of no other cluster on this computer.
NODES = tuple(f"featvis{os.getpid()}n{number}" for number in (1, 2, 3))
GROUPS = Path("/sys/fs/cgroup")
# Nodes tell of more than there is, so that scripts get what they ask for: files stand for GPUs.
_CONFIGURATION = """
ClusterName=featvis
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Slurm lets a job that was queued again wait for as long as credentials last.
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
PlugStackConfig={root}/plugstack.conf
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
"""
_GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\nName=gpu File=/dev/full\n"
_NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
    "CPUs=32 RealMemory=400000 Gres=gpu:3"
)


class Missing(Exception):
    """What this computer lacks, and the fix."""


class Cluster:
    """What is running: its environment, and its commands."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        """Point at what `started` started."""
        self.root = root
        self.environment = {**environment, "SLURM_CONF": str(root / "slurm.conf")}

    def call(self, *command: str, **options: object) -> str:
        """Run a command of Slurm; gives what it printed."""
        options = {"env": self.environment, "cwd": self.root, **options}
        ran = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
        return ran.stdout.strip()

    def state(self, job: str) -> tuple[str, int]:
        """State of a job and how often it was started again."""
        told = self.call("scontrol", "--oneliner", "show", "job", job)
        states = re.findall(r"\bJobState=(\w+)", told)
        restarts = re.findall(r"\bRestarts=(\d+)", told)
        return ",".join(sorted(set(states))), max(map(int, restarts))

    def processes(self) -> list[int]:
        """All that was started here and is still there, daemons and jobs."""
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # It has ended.
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """End everything, jobs too, and remove the control groups of the nodes."""
        for number, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + patience_s
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.1)
        for node in NODES:  # Of version 1, and of version 2.
            for group in (*GROUPS.glob(f"*/slurm_{node}"), *GROUPS.glob(f"system.slice/{node}*")):
                for path, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(path)


def install() -> None:
    """Install Slurm and Open MPI from Debian's packages if need be.

    Raises:
      Missing: Something is not there and cannot be installed here.
    """
    if os.geteuid() != 0:
        raise Missing("slurmd needs root: start this as root, in a container for example.")
    if _missing() and shutil.which("apt-get"):
        for command in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
            subprocess.run(
                ["apt-get", "--quiet", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    if missing := _missing():
        raise Missing(
            f"{', '.join(missing)}: not installed. On Debian: apt install {' '.join(PACKAGES)}"
        )


def _missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _groups() -> str:
    """The configuration of control groups, of the kind that this computer has.

    Raises:
      Missing: There is none that can be written.
    """
    version1, version2 = GROUPS / "freezer", GROUPS / "cgroup.controllers"
    writable = os.access(version1 if version1.is_dir() else GROUPS, os.W_OK)
    if not writable or not (version1.is_dir() or version2.is_file()):
        raise Missing(
            f"{GROUPS}: no control groups that can be written: give --proctrack=linuxproc, or "
            "start this where they are."
        )
    if version1.is_dir():
        return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={GROUPS}\nCgroupAutomount=no\n"
    return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def started(root: Path, *, proctrack: str, environment: dict[str, str]) -> Iterator[Cluster]:
    """Run a cluster for the length of a `with` block.

    Args:
      root: An empty directory.
      proctrack: Slurm's way to find the processes of a job, cgroup or linuxproc.
      environment: Of jobs; the cluster's own comes on top.
    """
    (root / "munge").mkdir(mode=0o700)
    (root / "state").mkdir()
    (root / "munge" / "key").touch(mode=0o400)
    (root / "munge" / "key").write_bytes(os.urandom(128))
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = [_NODE.format(name=n, port=p) for n, p in zip(NODES, ports, strict=True)]
    text = _CONFIGURATION.format(
        root=root, controller=controller, proctrack=proctrack, nodes="\n".join(nodes)
    )
    (root / "slurm.conf").write_text(text)
    (root / "gres.conf").write_text(_GPUS)
    (root / "plugstack.conf").touch()
    (root / "cgroup.conf").write_text(_groups() if proctrack == "cgroup" else "")
    cluster = Cluster(root, environment)
    try:
        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        options = [f"--{name}={root / 'munge' / file}" for name, file in munge.items()]
        seed = f"--seed-file={root / 'munge' / 'seed'}"
        _start(cluster, "munged", "--foreground", "--force", seed, *options)
        _until(lambda: (root / "munge" / "socket").exists(), 10, "munged does not listen")
        _start(cluster, "slurmctld", "-D")
        for node in NODES:
            _start(cluster, "slurmd", "-D", "-N", node)
        _until(lambda: _idle(cluster) == len(NODES), 60, f"the nodes do not come up, see {root}")
        yield cluster
    finally:
        cluster.stop()


def _start(cluster: Cluster, name: str, *arguments: str) -> None:
    # In a session of its own: Ctrl-C is for the program that ends all of them in order.
    with (cluster.root / f"{name}.out").open("ab") as out:
        subprocess.Popen(
            [name, *arguments],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _idle(cluster: Cluster) -> int:
    with contextlib.suppress(RuntimeError):  # The controller is not there yet.
        told = cluster.call("sinfo", "--noheader", "--partition=main", "--Node", "--format=%t")
        return told.split().count("idle")
    return 0


def _until(done, patience_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise Missing(f"Slurm: {otherwise}.")
        time.sleep(0.2)
