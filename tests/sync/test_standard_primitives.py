"""threading.Condition, Event, Semaphore, Barrier and the queues of the standard library stand on our locks."""

import pytest

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_event():
    import threading
    import time

    from rimstone import joinall, sleep, spawn

    event = threading.Event()
    tasks = [spawn(event.wait) for _ in range(5)]
    late = spawn(event.wait, 0.005)
    assert late.get() is False
    event.set()
    joinall(tasks)
    assert all(task.get() is True for task in tasks)
    event.clear()
    task = spawn(event.wait, 20)
    sleep(0)
    thread = threading.Thread(target=event.set)
    thread.start()
    assert task.get() is True
    thread.join()
    event.clear()
    thread = threading.Thread(target=event.wait, args=(20,))
    thread.start()
    time.sleep(0.001)
    event.set()
    thread.join()


@in_patched_process()
def test_condition_semaphore_and_barrier():
    import threading

    from rimstone import joinall, sleep, spawn

    condition, order = threading.Condition(), []

    def wait(number):
        with condition:
            assert condition.wait_for(lambda: len(order) == number, timeout=20)
            order.append(number)
            condition.notify_all()

    tasks = [spawn(wait, number) for number in (3, 1, 2, 0)]
    joinall(tasks, raise_error=True)
    assert order == [0, 1, 2, 3]
    with condition:
        assert condition.wait(0.005) is False
    inside, most, semaphore = [0], [0], threading.BoundedSemaphore(3)

    def enter():
        with semaphore:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            sleep(0.001)
            inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    joinall([spawn(enter) for _ in range(10)], raise_error=True)
    for thread in threads:
        thread.join()
    assert most[0] <= 3
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=barrier.wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    tasks = [spawn(barrier.wait) for _ in range(2)]
    joinall(tasks, raise_error=True)
    for thread in threads:
        thread.join()
    broken = threading.Barrier(2)
    try:
        broken.wait(0.005)
    except threading.BrokenBarrierError:
        pass
    else:
        raise AssertionError


@in_patched_process()
def test_queues():
    import queue

    from rimstone import joinall, sleep, spawn

    for make in (queue.Queue, queue.LifoQueue, queue.PriorityQueue):
        things = make(maxsize=2)
        done = []

        def take(things=things, done=done):
            while True:
                item = things.get()
                sleep(0)
                done.append(item)
                things.task_done()

        takers = [spawn(take) for _ in range(3)]
        joinall([spawn(things.put, number) for number in range(20)], raise_error=True)
        things.join()
        assert sorted(done) == list(range(20))
        for task in takers:
            task.kill()
        try:
            things.get(timeout=0.005)
        except queue.Empty:
            pass
        things.put(1)
        things.put(2)
        try:
            things.put(3, timeout=0.005)
        except queue.Full:
            pass


@in_patched_process()
@pytest.mark.parametrize("when", ["after the notify", "before the notify", "while it takes the lock back"])
@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "Condition"])
def test_two_getters_and_a_kill_of_the_notified_one(when, kind):
    import queue
    import threading

    from rimstone import sleep, spawn

    if kind == "Condition":
        condition, things = threading.Condition(), []

        def get():
            with condition:
                while not things:
                    condition.wait()
                return things.pop()

        def put_holding(item):
            things.append(item)
            condition.notify()

        lock = condition
    else:
        made = getattr(queue, kind)()
        get, lock = made.get, made.mutex

        def put_holding(item):
            made._put(item)
            made.not_empty.notify()

    got = []

    def take(name):
        got.append((name, get()))
        sleep(100)

    first, second = spawn(take, "first"), spawn(take, "second")
    sleep(0)
    sleep(0)
    if when == "after the notify":
        with lock:
            put_holding(1)
        first.kill(block=False)
    elif when == "before the notify":
        first.kill(block=False)
        with lock:
            put_holding(1)
    else:
        with lock:
            first.kill(block=False)
            sleep(0.001)  # it is out of its wait, and now waits for the lock
            assert first.state == "parked"
            put_holding(1)
    sleep(0.005)
    assert [item for _, item in got] == [1], got
    assert first.ready()
    second.kill()
    assert lock.acquire(timeout=1)


@in_patched_process()
@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_kill_while_the_permit_is_given_back_loses_it_not(kind):
    import threading

    from rimstone import sleep, spawn, sync

    semaphore, gate = getattr(threading, kind)(1), threading.Event()

    def work():
        with semaphore:
            gate.wait()

    task = spawn(work)
    sleep(0)
    semaphore._cond.acquire()  # as another thread does for a moment, whenever it takes or gives
    gate.set()
    sleep(0)
    sleep(0)
    assert task.state == "parked"
    task.kill(block=False)
    sleep(0.001)
    semaphore._cond.release()
    task.join(20)
    assert task.ready()
    assert semaphore.acquire(blocking=False)
    own = getattr(sync, kind)(2)  # made of the original's functions, where those have been replaced too
    with own, own:
        assert own._value == 0
        assert type(own._cond) is sync.Condition


@in_patched_process()
def test_locks_of_other_modules():
    import concurrent.futures
    import logging
    import threading

    from rimstone import joinall, sleep, spawn

    class Slow(logging.Handler):
        def __init__(self):
            super().__init__()
            self.lock = threading.RLock()  # logging.Handler.createLock makes one as well
            self.inside = 0

        def emit(self, record):
            self.inside += 1
            assert self.inside == 1
            sleep(0)
            self.inside -= 1

    logger = logging.getLogger("test")
    logger.addHandler(Slow())
    joinall([spawn(logger.warning, "words") for _ in range(10)], raise_error=True)
    future = concurrent.futures.Future()
    waiters = [spawn(future.result, 20) for _ in range(5)]
    sleep(0)
    future.set_result(7)
    joinall(waiters, raise_error=True)
    assert [task.value for task in waiters] == [7] * 5
