"""Machine limits: each number is the smallest that binds this process, and says where it stands."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rimstone import machine
from rimstone.machine import Reading


def write(root: Path, file: str, text: str) -> None:
    path = root / file.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A machine with cgroup v2, this process being in /a/b."""
    write(tmp_path, "/proc/self/cgroup", "0::/a/b\n")
    write(tmp_path, "/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A machine with cgroup v1, this process being in /a/b of the controllers that matter."""
    write(tmp_path, "/proc/self/cgroup", "4:memory:/a/b\n3:pids:/a/b\n2:cpu,cpuacct:/a/b\n1:name=systemd:/x:y\n")
    write(
        tmp_path,
        "/proc/self/mountinfo",
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "36 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "37 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
    )
    return tmp_path


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)


@pytest.mark.usefixtures("many_cpus")
class TestCpus:
    def test_without_control_groups_it_is_the_affinity(self, tmp_path: Path) -> None:
        assert machine.cpus(root=tmp_path) == Reading(64, "sched_getaffinity")

    def test_own_quota_v2(self, v2: Path) -> None:
        write(v2, "/sys/fs/cgroup/a/b/cpu.max", "200000 100000\n")
        assert machine.cpus(root=v2) == Reading(2, "/sys/fs/cgroup/a/b/cpu.max = 200000 100000")

    @pytest.mark.parametrize("place", ["/sys/fs/cgroup/a/cpu.max", "/sys/fs/cgroup/cpu.max"])
    def test_a_smaller_quota_of_an_ancestor_binds(self, v2: Path, place: str) -> None:
        write(v2, "/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n")
        write(v2, place, "300000 100000\n")
        assert machine.cpus(root=v2) == Reading(3, f"{place} = 300000 100000")

    @pytest.mark.parametrize(("quota", "cpus"), [("150000 100000", 2), ("5000 100000", 1), ("100000 50000", 2)])
    def test_quotas_are_rounded_up_and_at_least_one(self, v2: Path, quota: str, cpus: int) -> None:
        write(v2, "/sys/fs/cgroup/a/b/cpu.max", quota)
        assert machine.cpus(root=v2).value == cpus

    @pytest.mark.parametrize(
        "text", ["max 100000", "", "\n", "garbage", "1 2 3", "0 0", "100000 0", "-1 100000", "\x00"]
    )
    def test_what_sets_no_limit(self, v2: Path, text: str) -> None:
        write(v2, "/sys/fs/cgroup/a/b/cpu.max", text)
        assert machine.cpus(root=v2) == Reading(64, "sched_getaffinity")

    def test_quota_v1(self, v1: Path) -> None:
        folder = "/sys/fs/cgroup/cpu,cpuacct/a"
        write(v1, f"{folder}/b/cpu.cfs_quota_us", "-1\n")
        write(v1, f"{folder}/b/cpu.cfs_period_us", "100000\n")
        write(v1, f"{folder}/cpu.cfs_quota_us", "400000\n")
        write(v1, f"{folder}/cpu.cfs_period_us", "100000\n")
        assert machine.cpus(root=v1) == Reading(4, f"{folder}/cpu.cfs_quota_us = 400000, cpu.cfs_period_us = 100000")

    def test_hybrid_reads_both_hierarchies(self, v1: Path) -> None:
        with open(v1 / "proc/self/cgroup", "a") as file:
            file.write("0::/session\n")
        with open(v1 / "proc/self/mountinfo", "a") as file:
            file.write("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
        write(v1, "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "600000")
        write(v1, "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000")
        assert machine.cpus(root=v1).value == 6
        write(v1, "/sys/fs/cgroup/unified/session/cpu.max", "500000 100000")
        assert machine.cpus(root=v1).value == 5

    def test_a_mount_that_shows_a_part_of_the_tree(self, v2: Path) -> None:
        """In a container without a namespace of its own, /a is what is mounted."""
        write(v2, "/proc/self/mountinfo", "30 23 0:26 /a /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n")
        write(v2, "/sys/fs/cgroup/b/cpu.max", "700000 100000")
        assert machine.cpus(root=v2).value == 7

    @pytest.mark.parametrize("line", ["0::/../../elsewhere", "0::/somewhere/else"])
    def test_a_group_outside_of_the_mount_falls_back_to_its_top(self, v2: Path, line: str) -> None:
        write(v2, "/proc/self/cgroup", line)
        write(v2, "/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n")
        write(v2, "/sys/fs/cgroup/cpu.max", "700000 100000")
        assert machine.cpus(root=v2).value == 7

    def test_mount_points_with_spaces(self, v2: Path) -> None:
        write(v2, "/proc/self/mountinfo", "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n")
        write(v2, "/my groups/a/b/cpu.max", "200000 100000")
        assert machine.cpus(root=v2).value == 2

    def test_unreadable_places_set_no_limit(self, v2: Path) -> None:
        (v2 / "sys/fs/cgroup/a/b/cpu.max").mkdir()  # reading a folder fails for root, too
        assert machine.cpus(root=v2).value == 64

    @pytest.mark.parametrize("text", ["", "nonsense", "0::", "::::", "0::relative", "1:cpu"])
    def test_odd_lists_of_groups(self, v2: Path, text: str) -> None:
        write(v2, "/proc/self/cgroup", text)
        assert machine.cpus(root=v2).value == 64

    @pytest.mark.parametrize(
        "text", ["", " - ", "1 2 3 - cgroup2", "a b c d e - cgroup", "a b c d e - ", "30 23 0:26 /"]
    )
    def test_odd_lists_of_mounts(self, v2: Path, text: str) -> None:
        write(v2, "/proc/self/mountinfo", text)
        assert machine.cpus(root=v2).value == 64


def test_a_system_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cpus(root=tmp_path) == Reading(1, "os.cpu_count")


class TestMemory:
    @pytest.fixture(autouse=True)
    def available(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Memory:
            available = 1 << 40

        monkeypatch.setattr(psutil, "virtual_memory", Memory)

    def test_without_control_groups_it_is_what_the_machine_has(self, tmp_path: Path) -> None:
        assert machine.memory_bytes(root=tmp_path) == Reading(1 << 40, "MemAvailable")

    def test_what_a_group_has_left(self, v2: Path) -> None:
        folder = "/sys/fs/cgroup/a"
        write(v2, f"{folder}/memory.max", "1000000\n")
        write(v2, f"{folder}/memory.current", "700000\n")
        write(v2, f"{folder}/memory.stat", "anon 1\ninactive_file 300000\nactive_file 5\n")
        assert machine.memory_bytes(root=v2) == Reading(600000, f"{folder}/memory.max = 1000000, in use 400000")

    def test_the_ancestor_with_least_left_binds(self, v2: Path) -> None:
        write(v2, "/sys/fs/cgroup/a/b/memory.max", "1000")
        write(v2, "/sys/fs/cgroup/a/b/memory.current", "10")
        write(v2, "/sys/fs/cgroup/a/memory.max", "5000")
        write(v2, "/sys/fs/cgroup/a/memory.current", "4900")
        assert machine.memory_bytes(root=v2).value == 100

    def test_more_used_than_allowed_is_none_left(self, v2: Path) -> None:
        write(v2, "/sys/fs/cgroup/a/memory.max", "1000")
        write(v2, "/sys/fs/cgroup/a/memory.current", "2000")
        assert machine.memory_bytes(root=v2).value == 0

    def test_v1(self, v1: Path) -> None:
        folder = "/sys/fs/cgroup/memory/a"
        write(v1, f"{folder}/b/memory.limit_in_bytes", "9223372036854771712\n")
        write(v1, f"{folder}/memory.limit_in_bytes", "5000\n")
        write(v1, f"{folder}/memory.usage_in_bytes", "3000\n")
        write(v1, f"{folder}/memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n")
        assert machine.memory_bytes(root=v1) == Reading(3000, f"{folder}/memory.limit_in_bytes = 5000, in use 2000")

    def test_v1_writes_no_limit_as_a_huge_number(self, v1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise OSError("nothing else to go by")

        monkeypatch.setattr(psutil, "virtual_memory", refuse)
        for size in (9223372036854771712, 9223372036854710272):  # pages of 4 KiB, of 64 KiB
            write(v1, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes", str(size))
            assert machine.memory_bytes(root=v1).value is None

    @pytest.mark.parametrize("text", ["max", "", "garbage"])
    def test_what_sets_no_limit(self, v2: Path, text: str) -> None:
        write(v2, "/sys/fs/cgroup/a/b/memory.max", text)
        assert machine.memory_bytes(root=v2).source == "MemAvailable"

    def test_no_answer_from_the_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise OSError("no /proc")

        monkeypatch.setattr(psutil, "virtual_memory", refuse)
        reading = machine.memory_bytes(root=tmp_path)
        assert reading.value is None
        assert "no /proc" in reading.source


class TestProcesses:
    def test_the_smallest_pids_max(self, v2: Path) -> None:
        write(v2, "/sys/fs/cgroup/a/b/pids.max", "max\n")
        write(v2, "/sys/fs/cgroup/a/pids.max", "12\n")
        assert machine.processes(root=v2) == Reading(12, "/sys/fs/cgroup/a/pids.max = 12")

    def test_v1(self, v1: Path) -> None:
        write(v1, "/sys/fs/cgroup/pids/a/b/pids.max", "9")
        assert machine.processes(root=v1) == Reading(9, "/sys/fs/cgroup/pids/a/b/pids.max = 9")

    def test_without_control_groups_it_is_the_users_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (77, 100))
        assert machine.processes(root=tmp_path) == Reading(77, "RLIMIT_NPROC soft 77")
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert machine.processes(root=tmp_path) == Reading(None, "RLIMIT_NPROC soft unlimited")


class TestDescriptors:
    def test_soft_and_hard(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert [reading.value for reading in machine.descriptors()] == [soft, hard]
        assert machine.descriptors()[1].source == f"RLIMIT_NOFILE hard {hard}"

    def test_open_ones_are_counted_one_by_one(self) -> None:
        before = machine.open_descriptors().value
        reading_end, writing_end = os.pipe()
        during = machine.open_descriptors().value
        os.close(reading_end)
        os.close(writing_end)
        assert before is not None
        assert during == before + 2
        assert machine.open_descriptors().value == before

    def test_open_ones_where_nothing_tells(self, tmp_path: Path) -> None:
        assert machine.open_descriptors(root=tmp_path).value is None

    def test_raising_takes_the_soft_limit_to_the_hard_one(self) -> None:
        script = (
            "import resource\n"
            "from rimstone import machine\n"
            "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))\n"
            "assert machine.descriptors()[0].value == 128\n"
            "reading = machine.raise_descriptor_limit()\n"
            "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)\n"
            "assert reading.value == hard, reading\n"
            "assert machine.raise_descriptor_limit() == reading\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    def test_raising_copes_with_a_kernel_that_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = [256, resource.RLIM_INFINITY]

        def setrlimit(_which: int, wanted: tuple[int, int]) -> None:
            if wanted[0] == resource.RLIM_INFINITY:
                raise ValueError("current limit exceeds maximum limit")  # what macOS does
            limits[:] = wanted

        monkeypatch.setattr(resource, "getrlimit", lambda _which: tuple(limits))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        assert machine.raise_descriptor_limit().value == 10240


def test_this_machine_answers() -> None:
    assert (machine.cpus().value or 0) >= 1
    assert (machine.memory_bytes().value or 0) > 0
    assert (machine.open_descriptors().value or 0) >= 3
    assert machine.processes().source


def test_reading_limits_imports_psutil_only_when_memory_is_asked_for() -> None:
    script = (
        "import sys\n"
        "from rimstone import machine\n"
        "machine.cpus(); machine.processes(); machine.descriptors()\n"
        "assert 'psutil' not in sys.modules\n"
        "machine.memory_bytes()\n"
        "assert 'psutil' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
