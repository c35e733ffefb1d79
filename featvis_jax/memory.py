"""How much memory there is for this process: on the machine, and within its container's limit."""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# Of a control group, by its version: files with its limit and its use, and the line of memory.stat
# with what files left behind in memory, which the kernel gives up before it refuses anything.
_GROUP_FILES = {
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
}


def available_bytes() -> int:
    """Memory that this process can still take.

    On Linux this is the kernel's own estimate, or what the control groups of the process have left
    if that is less: containers and jobs of a cluster have such limits. Other systems do not say
    what is free; there it is half of what is built in.

    Raises:
      OSError: The system does not say what is built in either.

    Example:
      >>> available_bytes() > 0
      True
    """
    return max(0, min([_left_on_machine(), *_left_in_groups()]))


def _left_on_machine() -> int:
    for line in _lines(_ROOT / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        built_in = 0
    if built_in <= 0:
        raise OSError(
            "This system does not say how much memory it has, by /proc/meminfo or sysconf: pass "
            "--batch=N instead of --batch=auto."
        )
    return built_in // 2


def _left_in_groups() -> Iterator[int]:
    """What each control group around this process, and with a limit, has left."""
    for directory, version in _groups():
        limit_file, use_file, cached_name = _GROUP_FILES[version]
        limit = "".join(_lines(directory / limit_file))
        use = "".join(_lines(directory / use_file))
        if limit.isdecimal() and use.isdecimal():  # The root has neither file; no limit is "max".
            statistics = dict(line.split() for line in _lines(directory / "memory.stat"))
            yield int(limit) - int(use) + int(statistics.get(cached_name, 0))


def _groups() -> Iterator[tuple[Path, str]]:
    """Directories of the control groups of this process, from its own to the outermost it sees."""
    own = {}
    for line in _lines(_ROOT / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)  # Of version 2, none is named.
    for line in _lines(_ROOT / "proc/self/mountinfo"):
        mount, _, file_system = line.partition(" - ")
        mounted, place = mount.split()[3:5]
        version, *_, options = file_system.split()
        if version == "cgroup" and "memory" in options.split(","):
            controller = "memory"
        elif version == "cgroup2":
            controller = ""
        else:
            continue
        top = _ROOT / place.lstrip("/")
        path = Path(own.get(controller, "/"))
        # A container may know its group by the host's path and see it mounted as the outermost.
        group = top / path.relative_to(mounted) if path.is_relative_to(mounted) else top
        yield from ((each, version) for each in (group, *group.parents) if each.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel's; none where there is no such file or it may not be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
