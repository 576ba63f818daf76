"""Arguments and results of every size, more of them than the wire holds, and a parent that does not read."""

import os
import threading
from typing import Any

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.pools.process import ProcessBackedExecutor
from rimstone.workers.wire import INLINE_BYTES

pytestmark = pytest.mark.slow

PATIENCE = 60.0
BOTH = pytest.mark.parametrize("cls", [Pool, ProcessPoolExecutor])


def pool_of(cls: type[ProcessBackedExecutor], processes: int = 1, **options: Any) -> ProcessBackedExecutor:
    return Pool(processes=processes, **options) if cls is Pool else ProcessPoolExecutor(processes, **options)


@BOTH
def test_twenty_megabytes_there_and_back(cls: type[ProcessBackedExecutor]) -> None:
    data = os.urandom(1 << 20) * 20
    with pool_of(cls) as pool:
        assert pool.submit(bytes.upper, data).result(PATIENCE) == data.upper()


@BOTH
def test_sizes_around_those_at_which_the_way_changes(cls: type[ProcessBackedExecutor]) -> None:
    sizes = [edge + near for edge in (32 * 1024, 48 * 1024, INLINE_BYTES) for near in range(-150, 151, 25)]
    with pool_of(cls) as pool:
        for size, result in zip(sizes, pool.map(bytes, sizes), strict=True):
            assert result == bytes(size)
        assert list(pool.map(len, map(bytes, sizes))) == sizes


@BOTH
def test_thousands_of_small_ones(cls: type[ProcessBackedExecutor]) -> None:
    with pool_of(cls, 2) as pool:
        assert list(pool.map(divmod, range(3000), [7] * 3000)) == [divmod(x, 7) for x in range(3000)]


@BOTH
def test_the_wire_full_in_both_directions(cls: type[ProcessBackedExecutor]) -> None:
    """Many megabytes wait on each side; neither may block the other."""
    data = os.urandom(30_000)
    with pool_of(cls) as pool:
        futures = [pool.submit(bytes.upper, data) for _ in range(1000)]
        expected = data.upper()
        assert all(future.result(PATIENCE) == expected for future in futures)


@BOTH
def test_results_bigger_than_the_socket_buffer_while_the_parent_does_not_read(
    cls: type[ProcessBackedExecutor],
) -> None:
    """Unpickling one result holds up the pool's thread; the worker meanwhile fills the wire and waits."""
    with pool_of(cls) as pool:
        futures = [pool.submit(Stopper)]
        futures += [pool.submit(bytes, 40_000) for _ in range(300)]
        assert Stopper.reached.wait(PATIENCE)
        assert not futures[-1].done()
        Stopper.go_on.set()
        assert all(len(future.result(PATIENCE)) == 40_000 for future in futures[1:])
        assert futures[0].result(PATIENCE) == "went on"


def _stop() -> str:
    Stopper.reached.set()
    Stopper.go_on.wait(PATIENCE)
    Stopper.reached.clear()
    Stopper.go_on.clear()
    return "went on"


class Stopper:
    """Unpickles as "went on", once `go_on` is set."""

    reached = threading.Event()
    go_on = threading.Event()

    def __reduce__(self) -> Any:
        return _stop, ()


def test_an_initializer_with_big_arguments() -> None:
    with Pool(processes=1, initializer=len, initargs=(bytes(5_000_000),)) as pool:
        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_a_big_function() -> None:
    table = os.urandom(2_000_000)
    with Pool(processes=1) as pool:
        assert pool.submit(lambda at: table[at], 5).result(PATIENCE) == table[5]


def test_a_big_call_among_small_ones_keeps_its_place() -> None:
    with ProcessPoolExecutor(1) as pool:
        items = [b"a", bytes(300_000), b"b", bytes(90_000), b"c"] * 20
        assert list(pool.map(len, items)) == [len(item) for item in items]
