"""The wire: whole messages or none, whatever their size and however few descriptors are left."""

import contextlib
import errno
import os
import pickle
import resource
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rimstone.workers import wire
from rimstone.workers.wire import INLINE_BYTES, Channel, ChannelClosed, Kind, channel_pair

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = channel_pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def content_of(size: int) -> bytes:
    """Bytes whose message has exactly *size* bytes."""
    content = b"x" * (size - 100)
    content += b"y" * (size - 1 - len(pickle.dumps(content, pickle.HIGHEST_PROTOCOL)))
    assert 1 + len(pickle.dumps(content, pickle.HIGHEST_PROTOCOL)) == size
    return content


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[list[int]]:
    """Every descriptor that this process may have is open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_descriptors()) + 30, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("extra", [-2, -1, 0, 1, 2])
def test_messages_around_the_largest_inline_size(pair: Pair, extra: int) -> None:
    ours, theirs = pair
    content = content_of(INLINE_BYTES + extra)
    before = open_descriptors()
    assert ours.try_send(Kind.CALLS, content)
    assert theirs.receive(block=False) == (Kind.CALLS, content)
    assert theirs.receive(block=False) is None
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "content", [None, b"", (1, "two", [3.0]), b"x" * 20_000_000], ids=["none", "empty", "tuple", "20 MB"]
)
def test_what_is_sent_is_received_in_both_directions(pair: Pair, content: Any) -> None:
    for one, other in (pair, pair[::-1]):
        one.send(Kind.REPORT, content)
        assert other.receive(block=True) == (Kind.REPORT, content)


def test_messages_keep_their_order_and_their_edges(pair: Pair) -> None:
    ours, theirs = pair
    contents = [os.urandom(size) for size in (1, 70_000, 0, 200_000, 5)]
    for content in contents:
        ours.send(Kind.CALLS, content)
    assert [theirs.receive(block=False) for _ in contents] == [(Kind.CALLS, content) for content in contents]


def test_nothing_there_is_none_and_not_the_end(pair: Pair) -> None:
    assert pair[0].receive(block=False) is None


def test_a_blocking_receive_waits(pair: Pair) -> None:
    ours, theirs = pair
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(theirs.receive(block=True)))
    thread.start()
    ours.send(Kind.STOP, 5)
    thread.join(10)
    assert got == [(Kind.STOP, 5)]


def test_the_end_comes_after_everything_that_was_sent(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(Kind.CALLS, b"small")
    ours.send(Kind.CALLS, b"x" * 100_000)
    ours.close()
    assert theirs.receive(block=False) == (Kind.CALLS, b"small")
    assert theirs.receive(block=False) == (Kind.CALLS, b"x" * 100_000)
    for block in (False, True):
        with pytest.raises(ChannelClosed):
            theirs.receive(block=block)


@pytest.mark.parametrize("size", [10, 100_000])
def test_sending_to_a_closed_end_says_so_and_leaves_no_descriptor(pair: Pair, size: int) -> None:
    ours, theirs = pair
    theirs.close()
    before = open_descriptors()
    for send in (ours.try_send, ours.send):
        with pytest.raises(ChannelClosed):
            send(Kind.CALLS, b"x" * size)
    assert open_descriptors() == before


@pytest.mark.parametrize("block", [False, True])
def test_closing_with_unread_messages_loses_nothing_that_was_sent_before(pair: Pair, block: bool) -> None:
    """The kernel then says "connection reset" before it gives out what had been sent."""
    ours, theirs = pair
    theirs.send(Kind.REPORT, b"x" * 100_000)
    theirs.send(Kind.REPORT, "last words")
    ours.send(Kind.CALLS, None)
    theirs.close()
    assert ours.receive(block=block) == (Kind.REPORT, b"x" * 100_000)
    assert ours.receive(block=block) == (Kind.REPORT, "last words")
    for _ in range(2):
        with pytest.raises(ChannelClosed):
            ours.receive(block=block)


@pytest.mark.parametrize("size", [10, 50_000, 100_000])
def test_a_full_wire_refuses_and_goes_on_when_it_is_read(pair: Pair, size: int) -> None:
    ours, theirs = pair
    content = b"x" * size
    before = open_descriptors()
    sent = 0
    while ours.try_send(Kind.CALLS, content):
        sent += 1
        assert sent < 100_000, "the wire never fills"
    assert sent > 5
    assert not select.select([], [ours.fd], [], 0)[1]
    for _ in range(sent):
        assert theirs.receive(block=False) == (Kind.CALLS, content)
    assert theirs.receive(block=False) is None
    assert select.select([], [ours.fd], [], 0)[1]
    assert ours.try_send(Kind.CALLS, content)
    assert theirs.receive(block=False) == (Kind.CALLS, content)
    assert open_descriptors() == before


def test_a_blocking_send_waits_for_room(pair: Pair) -> None:
    ours, theirs = pair
    contents = [os.urandom(40_000) for _ in range(200)]
    thread = threading.Thread(target=lambda: [ours.send(Kind.CALLS, content) for content in contents])
    thread.start()
    assert [theirs.receive(block=True) for _ in contents] == [(Kind.CALLS, content) for content in contents]
    thread.join()


def test_large_messages_pass_though_no_descriptor_is_free(pair: Pair) -> None:
    """Both ends are in this process here, so both keep what they need in reserve."""
    ours, theirs = pair
    content = b"x" * 100_000
    with no_descriptor_left() as taken:
        with pytest.raises(OSError) as caught:
            os.dup(0)
        assert caught.value.errno == errno.EMFILE
        for _ in range(5):
            assert ours.try_send(Kind.CALLS, content)
            assert theirs.receive(block=False) == (Kind.CALLS, content)
            # What was kept in reserve is kept again.
            with pytest.raises(OSError):
                os.dup(0)
        assert taken


def test_without_even_a_reserve_a_large_message_waits_and_is_not_lost(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    pauses: list[float] = []
    monkeypatch.setattr(wire, "sleep", pauses.append)
    content = b"x" * 100_000
    assert ours.try_send(Kind.CALLS, content)
    with no_descriptor_left() as taken:
        theirs._release_reserve()
        ours._release_reserve()
        taken += [os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)]
        assert theirs.receive(block=False) is None
        assert not ours.try_send(Kind.CALLS, content)
        assert len(pauses) == 2, "a shortage must not become a busy loop"
        os.close(taken.pop())
        assert theirs.receive(block=False) == (Kind.CALLS, content)  # and the one that was closed is its reserve now
        os.close(taken.pop())
        assert ours.try_send(Kind.CALLS, content)
        assert theirs.receive(block=False) == (Kind.CALLS, content)


def test_closing_twice_does_no_harm(pair: Pair) -> None:
    before = open_descriptors()
    ours, theirs = channel_pair()
    ours.close()
    ours.close()
    theirs.close()
    assert open_descriptors() == before


def test_descriptors_do_not_leak_into_other_programs(pair: Pair) -> None:
    before = open_descriptors()
    ours, theirs = pair
    ours.send(Kind.CALLS, b"x" * 100_000)
    theirs.receive(block=False)
    assert all(
        not os.get_inheritable(int(fd)) for fd in open_descriptors() - before if os.path.exists(f"/proc/self/fd/{fd}")
    )
    assert not os.get_inheritable(ours.fd)
    assert not os.get_inheritable(theirs.fd)
