"""Running out of descriptors is a wait, never a failure; and a pool gives back what it took."""

import gc
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.pools.process import ProcessBackedExecutor

pytestmark = pytest.mark.slow

PATIENCE = 60.0
BOTH = pytest.mark.parametrize("cls", [Pool, ProcessPoolExecutor])


def pool_of(cls: type[ProcessBackedExecutor], processes: int) -> ProcessBackedExecutor:
    return Pool(processes=processes) if cls is Pool else ProcessPoolExecutor(processes)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@BOTH
def test_a_worker_costs_its_parent_four_descriptors(cls: type[ProcessBackedExecutor]) -> None:
    """The wire, the one in reserve, the pidfd, and the memory of started calls, which Python's mmap keeps open."""
    used = []
    for processes in (1, 4):
        with pool_of(cls, processes) as pool:
            list(pool.map(abs, range(10)))
            used.append(open_descriptors())
    assert used[1] - used[0] <= 4 * 3


@BOTH
def test_twenty_pools_leave_no_descriptor(cls: type[ProcessBackedExecutor]) -> None:
    before = open_descriptors()
    for _ in range(20):
        with pool_of(cls, 1) as pool:
            assert pool.submit(abs, -1).result(PATIENCE) == 1
    gc.collect()
    assert open_descriptors() == before


def test_workers_that_die_leave_no_descriptor() -> None:
    with Pool(processes=1) as pool:
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        before = open_descriptors()
        for _ in range(5):
            assert pool.submit(os._exit, 1).exception(PATIENCE) is not None
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert open_descriptors() == before


SERVER = """
import asyncio, resource

resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

async def answer(reader, writer):
    try:
        request = await reader.readuntil(b"\\r\\n\\r\\n")
        page = request.split(b" ", 2)[1]
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(page), page))
        await writer.drain()
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def site() -> Iterator[str]:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    server.kill()
    server.communicate()


def run_limited(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run with 256 descriptors, also for the workers: they can raise the soft limit to the hard one and no further."""
    source = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from rimstone import Pool, ProcessPoolExecutor\n" + textwrap.dedent(source)
    )
    return subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_five_thousand_fetches_under_a_limit_of_256_descriptors(site: str) -> None:
    done = run_limited(
        """
        import os, urllib.request
        os.environ["no_proxy"] = "127.0.0.1"
        def fetch(url):
            with urllib.request.urlopen(url) as response:
                return response.read().decode()
        urls = [f"{sys.argv[1]}/{number}" for number in range(5000)]
        with Pool(processes=2) as pool:
            pages = list(pool.map(fetch, urls))
            assert pages == [f"/{number}" for number in range(5000)]
            print(pool.statistics().most_in_flight)
        """,
        site,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 20


def test_calls_that_take_three_descriptors_each_wait_for_one_another() -> None:
    done = run_limited("""
        import os, time
        def use(number):
            files = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
            time.sleep(0.01)
            for file in files:
                os.close(file)
            return number
        with Pool(processes=1) as pool:
            assert list(pool.map(use, range(1000))) == list(range(1000))
    """)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("pool", ["Pool(processes=1)", "ProcessPoolExecutor(1)"])
def test_big_messages_pass_while_the_program_holds_every_descriptor(pool: str) -> None:
    done = run_limited(f"""
        import os
        def take_all():
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return taken
        def there(data):
            taken = take_all()
            kept.extend(taken[:-2])      # two left over, for a call to do anything at all
            for fd in taken[-2:]:
                os.close(fd)
            return data[::-1]
        kept = []
        def clear():
            for fd in kept:
                os.close(fd)
        data = os.urandom(300_000)
        with {pool} as pool:
            pool.submit(abs, 1).result()
            here = take_all()
            for _ in range(5):
                assert pool.submit(there, data).result(30) == data[::-1]
            for fd in here:
                os.close(fd)
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pool_that_cannot_start_a_worker_says_why() -> None:
    done = run_limited("""
        import os
        pool = Pool(processes=1)
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        future = pool.submit(abs, -1)
        print(repr(future.exception(30)))
        for fd in taken:
            os.close(fd)
        pool.shutdown()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("WorkerStartFailed.*no worker process could be started.*Too many open files", done.stdout)
