"""Thread.join in a task lets the other tasks run, and otherwise does what it always did."""

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_thread_that_needs_a_sibling_can_be_joined():
    import threading

    from rimstone import spawn

    ready, go = threading.Event(), threading.Event()

    def body():
        ready.set()
        assert go.wait(20)

    thread = threading.Thread(target=body)
    thread.start()
    joining = spawn(thread.join)
    spawn(lambda: (ready.wait(20), go.set()))
    joining.get()
    assert not thread.is_alive()
    assert thread.join() is None  # again


@in_patched_process()
def test_leaving_an_executor_lets_siblings_run():
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from rimstone import spawn

    go, leaving = threading.Event(), threading.Event()

    def release():
        leaving.wait(20)
        go.set()

    sibling = spawn(release)
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(go.wait, 20) for _ in range(2)]
        leaving.set()
    assert sibling.ready()
    assert all(future.result() for future in futures)


@in_patched_process()
def test_more_joins_than_threads_to_wait_on():
    import threading

    from rimstone import joinall, spawn
    from rimstone.hub.offload import MOST_THREADS, offload

    go = threading.Event()
    threads = [threading.Thread(target=go.wait, args=(25,)) for _ in range(MOST_THREADS + 3)]
    for thread in threads:
        thread.start()
    joins = [spawn(thread.join) for thread in threads]
    spawn(offload, go.set)  # stands in the queue behind all of them
    joinall(joins)
    assert not any(thread.is_alive() for thread in threads)


@in_patched_process()
def test_timeouts():
    import threading
    import time

    from rimstone import spawn

    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(20,))
    thread.start()
    ticks = []

    def tick():
        while not go.is_set():
            ticks.append(1)
            time.sleep(0.001)

    ticking = spawn(tick)
    start = time.monotonic()
    spawn(thread.join, 0.1).get()
    assert time.monotonic() - start >= 0.09
    assert thread.is_alive()
    assert len(ticks) > 5
    for nothing in (0, -1):
        assert thread.join(nothing) is None
        assert thread.is_alive()
    go.set()
    thread.join(timeout=20)
    assert not thread.is_alive()
    ticking.get()


@in_patched_process()
def test_errors():
    import threading

    from rimstone.hub import get_hub

    class Unfinished(threading.Thread):
        def __init__(self):
            pass

    get_hub()
    for thread, message in (
        (threading.current_thread(), "cannot join current thread"),
        (threading.Thread(), "cannot join thread before it is started"),
        (Unfinished(), r"Thread.__init__() not called"),
    ):
        try:
            thread.join()
        except RuntimeError as error:
            said = str(error)
        else:
            raise AssertionError(f"joined {thread!r}")
        assert message in said


@in_patched_process()
def test_executor_left_to_the_end_of_the_interpreter():
    import sys
    import time
    from concurrent.futures import ThreadPoolExecutor

    from rimstone.hub import get_hub

    get_hub()
    sys.kept_until_the_end = executor = ThreadPoolExecutor(1)
    executor.submit(time.sleep, 0.2)
