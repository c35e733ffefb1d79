"""Memory that is there for a process, read from the files of pretended machines and containers."""

import os
import sys

import pytest

from featvis_jax import memory

MIB = 2**20
UNLIMITED = 9_223_372_036_854_771_712  # Of version 1, which has no word for it.
MEMINFO = f"MemTotal: {64 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {32 * 1024} kB\n"
MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
35 31 0:32 {root} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
"""
MOUNT_2 = "30 23 0:27 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files by their paths and has them be the machine's."""
    monkeypatch.setattr(memory, "_ROOT", tmp_path)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(text))

    return write


def group_1(path, limit, use, inactive=0):
    """Files of a control group of version 1; sizes in MiB."""
    place = f"sys/fs/cgroup/memory/{path}"
    return {
        f"{place}/memory.limit_in_bytes": f"{limit if limit == UNLIMITED else limit * MIB}\n",
        f"{place}/memory.usage_in_bytes": f"{use * MIB}\n",
        f"{place}/memory.stat": f"cache 5\ninactive_file 7\ntotal_inactive_file {inactive * MIB}\n",
    }


def group_2(path, limit, use, inactive=0):
    """Files of a control group of version 2; sizes in MiB."""
    place = f"sys/fs/cgroup/{path}"
    return {
        f"{place}/memory.max": "max\n" if limit == UNLIMITED else f"{limit * MIB}\n",
        f"{place}/memory.current": f"{use * MIB}\n",
        f"{place}/memory.stat": f"anon 5\nfile 6\ninactive_file {inactive * MIB}\n",
    }


def linux(cgroup, mounts, *groups):
    """Files of a machine with 32 MiB to give and these control groups."""
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    return files | {name: text for group in groups for name, text in group.items()}


VERSION_1 = "9:name=systemd:/\n4:cpu,cpuacct:/elsewhere\n3:memory:{path}\n0::/ignored\n"
CASES = {
    "no limits": (linux("0::/\n", MOUNT_2.format(root="/")), 32),
    "2, its own limit": (
        linux("0::/job/step\n", MOUNT_2.format(root="/"), group_2("job/step", 20, 5)),
        15,
    ),
    "2, files that would be given up do not count": (
        linux("0::/job\n", MOUNT_2.format(root="/"), group_2("job", 20, 19, inactive=4)),
        5,
    ),
    "2, the limit of an ancestor": (
        linux(
            "0::/a/b/c\n",
            MOUNT_2.format(root="/"),
            group_2("a", UNLIMITED, 30),
            group_2("a/b", 12, 4),
            group_2("a/b/c", 20, 4),
            group_2("a/b/other", 3, 2),
        ),
        8,
    ),
    "2, a container that sees its group as the outermost": (
        linux("0::/\n", MOUNT_2.format(root="/"), group_2("", 10, 3)),
        7,
    ),
    "2, a container that sees the host's name of its group": (
        linux("0::/docker/f00/job\n", MOUNT_2.format(root="/docker/f00"), group_2("job", 9, 3)),
        6,
    ),
    "2, a group from above the mounted one": (
        linux("0::/../other\n", MOUNT_2.format(root="/docker/f00"), group_2("", 10, 2)),
        8,
    ),
    "2, no limit": (linux("0::/a\n", MOUNT_2.format(root="/"), group_2("a", UNLIMITED, 50)), 32),
    "2, more room than the machine has left": (
        linux("0::/a\n", MOUNT_2.format(root="/"), group_2("a", 900, 50)),
        32,
    ),
    "2, already over its limit": (
        linux("0::/a\n", MOUNT_2.format(root="/"), group_2("a", 10, 11)),
        0,
    ),
    "1, its own limit": (
        linux(
            VERSION_1.format(path="/slurm/job_7/step_0"),
            MOUNTS.format(root="/"),
            group_1("", UNLIMITED, 40),
            group_1("slurm/job_7/step_0", 16, 6, inactive=1),
            group_1("ignored", 1, 0),
        ),
        11,
    ),
    "1, the limit of an ancestor": (
        linux(
            VERSION_1.format(path="/slurm/job_7/step_0"),
            MOUNTS.format(root="/"),
            group_1("slurm/job_7", 9, 6),
            group_1("slurm/job_7/step_0", UNLIMITED, 6),
        ),
        3,
    ),
    "1, a container that sees the host's name of its group": (
        linux(
            VERSION_1.format(path="/docker/f00"),
            MOUNTS.format(root="/docker/f00"),
            group_1("", 14, 4),
        ),
        10,
    ),
    "1 for memory, 2 mounted beside it": (
        linux(
            VERSION_1.format(path="/job"),
            MOUNTS.format(root="/") + "41 31 0:38 / /sys/fs/unified rw - cgroup2 cgroup2 rw\n",
            group_1("job", 14, 5),
        ),
        9,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_machine_and_its_control_groups_leave(machine, name):
    files, expected = CASES[name]
    machine(files)
    assert memory.available_bytes() == expected * MIB


@pytest.mark.parametrize("meminfo", [None, "MemTotal: 5 kB\n"])
def test_a_system_that_does_not_say_what_is_free_gives_half_of_what_it_has(
    machine, monkeypatch, meminfo
):
    machine({} if meminfo is None else {"proc/meminfo": meminfo})
    # All that macOS knows of these two; it has no SC_AVPHYS_PAGES.
    values = {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    assert memory.available_bytes() == 16384 * 500


@pytest.mark.parametrize("answer", [-1, ValueError("unrecognized configuration name")])
def test_a_system_that_says_nothing_is_an_error_with_the_way_round(machine, monkeypatch, answer):
    def sysconf(_):
        if isinstance(answer, Exception):
            raise answer
        return answer if _ == "SC_PHYS_PAGES" else 4096

    machine({})
    monkeypatch.setattr(os, "sysconf", sysconf)
    with pytest.raises(OSError, match=r"by /proc/meminfo or sysconf: pass --batch=N"):
        memory.available_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has these files.")
def test_on_this_machine_it_is_less_than_what_is_built_in():
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available_bytes() < built_in
