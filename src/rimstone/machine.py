"""What this machine lets us use: CPUs, memory, descriptors, processes, each with the place its number comes from.

A container or a batch system grants less than the machine has, and says so in files that `os.cpu_count` does not
read. A limit set on a control group binds all groups below it, so each number is the smallest one found between
the process's own group and the root of the mount (cgroups(7); cgroup v2: cpu.max, memory.max, pids.max; v1:
cpu.cfs_quota_us, memory.limit_in_bytes, pids.max). A file that is missing, empty or unreadable sets no limit:
reading limits must never be the reason that a program does not start.

Every function takes `root`, the folder that stands for `/`; tests pass a made-up tree.
"""

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "Reading",
    "cpus",
    "descriptors",
    "memory_bytes",
    "open_descriptors",
    "processes",
    "raise_descriptor_limit",
]

_ROOT = Path("/")
# v1 writes "no limit" as the largest multiple of the page size below 2**63; page sizes differ, the magnitude does not.
_V1_UNLIMITED = 1 << 60
# What setrlimit accepts when the hard limit says "infinity" but the kernel has its own idea (macOS).
_FALLBACK_DESCRIPTORS = 10240


@dataclass(frozen=True, slots=True)
class Reading:
    """One number about the machine and where it was read.

    Attributes:
        value: The number, or None where nothing limits it or nothing tells.
        source: The call or the file (with what stood in it) that gave the number.
    """

    value: int | None
    source: str


def cpus(*, root: Path = _ROOT) -> Reading:
    """CPUs this process may keep busy: the smallest of its affinity and the quotas of all its control groups.

    A quota is rounded up (1.5 CPUs keep two processes busy) and counts as at least 1.
    """
    found = [_affinity()]
    for group in _groups(root, "cpu"):
        if group.version == 2:
            text = group.read("cpu.max")
            quota, period = _pair(text)
            source = f"{group.name('cpu.max')} = {text}"
        else:
            quota, period = _number(group.read("cpu.cfs_quota_us")), _number(group.read("cpu.cfs_period_us"))
            source = f"{group.name('cpu.cfs_quota_us')} = {quota}, cpu.cfs_period_us = {period}"
        if quota is not None and period is not None and quota > 0 and period > 0:
            found.append(Reading(max(1, -(-quota // period)), source))
    return _smallest(found)


def memory_bytes(*, root: Path = _ROOT) -> Reading:
    """Bytes that can still be used: the smallest of the machine's free memory and what each control group has left.

    Left in a group is its limit minus its use; file pages not used lately are not counted as use, because the
    kernel drops them before it refuses memory.
    """
    found = [_available_memory()]
    for group in _groups(root, "memory"):
        if group.version == 2:
            limit_file, usage_file, reclaimable_key = "memory.max", "memory.current", "inactive_file"
        else:
            limit_file, usage_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable_key = "total_inactive_file"
        limit = _number(group.read(limit_file))
        if limit is None or limit < 0 or limit >= _V1_UNLIMITED:
            continue
        usage = _number(group.read(usage_file)) or 0
        reclaimable = _keyed_number(group.read("memory.stat"), reclaimable_key) or 0
        in_use = max(0, usage - reclaimable)
        found.append(Reading(max(0, limit - in_use), f"{group.name(limit_file)} = {limit}, in use {in_use}"))
    return _smallest(found)


def processes(*, root: Path = _ROOT) -> Reading:
    """How many processes and threads may exist: the smallest of RLIMIT_NPROC (per user) and pids.max (per group)."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
    found = [Reading(_finite(soft), f"RLIMIT_NPROC soft {_shown(soft)}")]
    for group in _groups(root, "pids"):
        limit = _number(group.read("pids.max"))
        if limit is not None and limit >= 0:
            found.append(Reading(limit, f"{group.name('pids.max')} = {limit}"))
    return _smallest(found)


def descriptors() -> tuple[Reading, Reading]:
    """The most descriptors this process may have open: the soft limit, in force, and the hard one, to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        Reading(_finite(soft), f"RLIMIT_NOFILE soft {_shown(soft)}"),
        Reading(_finite(hard), f"RLIMIT_NOFILE hard {_shown(hard)}"),
    )


def open_descriptors(*, root: Path = _ROOT) -> Reading:
    """How many descriptors this process has open now."""
    for folder in ("proc/self/fd", "dev/fd"):
        try:
            entries = os.listdir(root / folder)
        except OSError:
            continue
        # listdir itself holds one descriptor of the folder while it reads.
        return Reading(max(0, len(entries) - 1), f"/{folder}")
    return Reading(None, "neither /proc/self/fd nor /dev/fd can be read")


def raise_descriptor_limit() -> Reading:
    """Raise the soft descriptor limit of this process to the hard one, and return what is now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goals = [hard] if hard != resource.RLIM_INFINITY else [hard, _FALLBACK_DESCRIPTORS]
    for goal in goals:
        if soft == resource.RLIM_INFINITY or (goal != resource.RLIM_INFINITY and soft >= goal):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        except (OSError, ValueError):
            continue
        break
    return descriptors()[0]


def _affinity() -> Reading:
    if hasattr(os, "sched_getaffinity"):
        try:
            return Reading(max(1, len(os.sched_getaffinity(0))), "sched_getaffinity")
        except OSError:
            pass
    return Reading(os.cpu_count() or 1, "os.cpu_count")


def _available_memory() -> Reading:
    import psutil  # noqa: PLC0415  # only doctor and the pools need it, and it takes 20 ms to import

    try:
        available = psutil.virtual_memory().available
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return Reading(None, f"psutil.virtual_memory failed: {error!r}")
    return Reading(available, "MemAvailable")


def _smallest(found: list[Reading]) -> Reading:
    """The reading with the smallest number; the first one when none has a number."""
    known = [reading for reading in found if reading.value is not None]
    return min(known, key=lambda reading: reading.value or 0) if known else found[0]


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group folder: its hierarchy's version, the folder, and the root that its names leave out."""

    version: int
    folder: PurePosixPath
    root: Path

    def read(self, file: str) -> str:
        """What stands in *file*, or "" when it cannot be read: then it sets no limit."""
        return _read(self.root / self.name(file).lstrip("/"))

    def name(self, file: str) -> str:
        """The path of *file* as a person on this machine would type it."""
        return str(self.folder / file)


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """The groups whose limits for *controller* bind this process: its own first, then each ancestor, v2 and v1.

    On a hybrid machine both hierarchies are mounted and a controller lives in one of them; in the other its files
    are missing, and a missing file sets no limit.
    """
    mounts = list(_mounts(root))
    for line in _read(root / "proc/self/cgroup").splitlines():
        # hierarchy-ID:controller-list:path; the path may hold colons, v2 has an empty list.
        _id, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or not path.startswith("/"):
            continue
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                for folder in mount.folders(PurePosixPath(path)):
                    yield _Group(version, folder, root)
                break  # mounted twice, it is still the same tree


@dataclass(frozen=True, slots=True)
class _Mount:
    """One mounted hierarchy: which group of it (`top`) is seen at which folder (`point`)."""

    version: int
    controllers: frozenset[str]
    top: PurePosixPath
    point: PurePosixPath

    def folders(self, path: PurePosixPath) -> Iterator[PurePosixPath]:
        """The folders of group *path* and its ancestors, as far up as this mount shows them."""
        try:
            below = path.relative_to(self.top)
        except ValueError:
            below = PurePosixPath()  # our group lies outside of what is mounted here; the top is the nearest we see
        if ".." in below.parts:
            below = PurePosixPath()
        folder = self.point / below
        yield folder
        while folder != self.point:
            folder = folder.parent
            yield folder


def _mounts(root: Path) -> Iterator[_Mount]:
    """The control group hierarchies mounted for this process (proc_pid_mountinfo(5))."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5 or not kind[0].startswith("cgroup"):
            continue
        top, point = PurePosixPath(_unescaped(fields[3])), PurePosixPath(_unescaped(fields[4]))
        if kind[0] == "cgroup2":
            yield _Mount(2, frozenset(), top, point)
        elif kind[0] == "cgroup" and len(kind) >= 3:
            yield _Mount(1, frozenset(kind[2].split(",")), top, point)


def _unescaped(field: str) -> str:
    r"""A mountinfo field with its \040 and the like turned back into characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    """The number in *text*; None for "max", for nothing, and for what is no number."""
    try:
        return int(text)
    except ValueError:
        return None


def _pair(text: str) -> tuple[int | None, int | None]:
    """The two numbers of a line such as "200000 100000" or "max 100000"."""
    words = text.split()
    return (_number(words[0]), _number(words[1])) if len(words) == 2 else (None, None)


def _keyed_number(text: str, key: str) -> int | None:
    """The number behind *key* in lines such as "inactive_file 4096"."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return _number(value)
    return None
