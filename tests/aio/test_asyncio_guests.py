"""asyncio.run inside tasks: several loops on one thread, none of which its siblings see."""

# ruff: noqa: ASYNC110, ASYNC251 - loops that block or poll are what is tested

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_several_loops_at_once_beside_plain_tasks():
    import asyncio
    import time

    from rimstone import joinall, sleep, spawn

    async def main(number):
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert asyncio.get_running_loop() is asyncio.get_event_loop()
        return number

    def plain():
        for _ in range(10):
            assert asyncio._get_running_loop() is None
            sleep(0.003)
        return "plain"

    began = time.monotonic()
    tasks = [spawn(asyncio.run, main(number)) for number in range(10)] + [spawn(plain)]
    joinall(tasks, raise_error=True)
    assert [task.value for task in tasks] == [*range(10), "plain"]
    assert time.monotonic() - began < 0.45  # one after the other would take 0.5


@in_patched_process()
def test_sibling_never_sees_a_running_loop():
    import asyncio
    import sys

    from rimstone import joinall, sleep, spawn

    seen = set()

    def watch():
        for _ in range(200):
            seen.add((asyncio._get_running_loop(), sys.get_asyncgen_hooks() == (None, None)))
            sleep(0)

    async def main():
        for _ in range(50):
            await asyncio.sleep(0)
        sleep(0.001)  # a blocking call in the loop's own code
        assert asyncio.get_running_loop().is_running()
        await asyncio.sleep(0.001)

    joinall([spawn(watch), spawn(asyncio.run, main()), spawn(watch), spawn(asyncio.run, main())], raise_error=True)
    assert seen == {(None, True)}


@in_patched_process()
def test_blocking_call_inside_a_callback_parks_only_that_loop():
    import asyncio
    import time

    from rimstone import joinall, spawn

    order = []

    async def blocks():
        await asyncio.sleep(0)
        time.sleep(0.05)
        order.append("blocked")

    async def goes_on():
        for _ in range(3):
            await asyncio.sleep(0.005)
        order.append("went on")

    joinall([spawn(asyncio.run, blocks()), spawn(asyncio.run, goes_on())], raise_error=True)
    assert order == ["went on", "blocked"]


@in_patched_process()
def test_loop_that_is_never_idle_lets_siblings_run():
    import asyncio

    from rimstone import sleep, spawn

    async def spin():
        while not stop:
            await asyncio.sleep(0)

    stop = []
    task = spawn(asyncio.run, spin())
    for _ in range(5):
        sleep(0.001)
    stop.append(1)
    task.get()


@in_patched_process()
def test_async_generators():
    import asyncio

    from rimstone import joinall, sleep, spawn

    closed = []

    async def numbers():
        try:
            for number in range(10):
                await asyncio.sleep(0.001)
                yield number
        finally:
            closed.append(asyncio._get_running_loop())

    async def main():
        async for number in numbers():
            if number == 2:
                break
        kept = numbers()
        await anext(kept)
        return kept

    joinall([spawn(asyncio.run, main()) for _ in range(3)] + [spawn(sleep, 0.002)], raise_error=True)
    assert len(closed) == 6
    assert None not in closed  # each was closed by its own loop


@in_patched_process()
def test_executors_and_threads():
    import asyncio
    import threading

    from rimstone import joinall, spawn

    async def main(number):
        loop = asyncio.get_running_loop()
        there = await loop.run_in_executor(None, threading.get_ident)
        assert there != threading.get_ident()
        assert await asyncio.to_thread(lambda: number * 2) == number * 2
        got = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(got.set_result, number))
        thread.start()
        try:
            return await got
        finally:
            thread.join()

    tasks = [spawn(asyncio.run, main(number)) for number in range(5)]
    joinall(tasks, raise_error=True)
    assert [task.value for task in tasks] == list(range(5))


@in_patched_process()
def test_another_task_wakes_a_loop():
    import asyncio

    from rimstone import sleep, spawn

    loops = []

    async def main():
        loop = asyncio.get_running_loop()
        got = loop.create_future()
        loops.append((loop, got))
        return await got

    task = spawn(asyncio.run, main())
    while not loops:
        sleep(0.001)
    loop, got = loops[0]
    loop.call_soon_threadsafe(got.set_result, "woken")
    assert task.get() == "woken"


@in_patched_process()
def test_streams_talk_to_a_server_in_a_task():
    import asyncio
    import socket

    from rimstone import joinall, spawn

    def serve(listener):
        while True:
            connection, _ = listener.accept()
            spawn(answer, connection)

    def answer(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())

    async def client(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = b"abc" * 100_000
        writer.write(data)
        assert await reader.readexactly(len(data)) == data.upper()
        writer.close()
        await writer.wait_closed()

    async def clients(port):
        await asyncio.gather(*[client(port) for _ in range(5)])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = spawn(serve, listener)
        port = listener.getsockname()[1]
        joinall([spawn(asyncio.run, clients(port)) for _ in range(3)], raise_error=True)
        server.kill()


@in_patched_process()
def test_server_of_asyncio_and_clients_in_tasks():
    import asyncio
    import socket

    from rimstone import joinall, sleep, spawn

    ports = []

    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        async with server:
            await stop.wait()

    def client():
        with socket.create_connection(("127.0.0.1", ports[0])) as sock:
            sock.sendall(b"abc\n")
            assert sock.makefile("rb").read() == b"ABC\n"

    stop = asyncio.Event()
    host = spawn(asyncio.run, main())
    while not ports:
        sleep(0.001)
    joinall([spawn(client) for _ in range(20)], raise_error=True)
    host.kill()


@in_patched_process()
def test_killed_loop_cleans_up():
    import asyncio

    from rimstone import sleep, spawn

    cleaned = []

    async def main():
        try:
            await asyncio.sleep(100)
        finally:
            cleaned.append(1)

    task = spawn(asyncio.run, main())
    sleep(0.01)
    task.kill()
    assert task.ready()
    assert cleaned == [1]
    assert asyncio._get_running_loop() is None


@in_patched_process()
def test_coroutine_of_a_main_program_spawns_the_first_task():
    import asyncio

    from rimstone import sleep, spawn
    from rimstone.hub import current_hub

    seen = []

    def watch():
        for _ in range(5):
            seen.append(asyncio._get_running_loop())
            sleep(0.001)

    async def main():
        assert current_hub() is None
        task = spawn(watch)
        while not task.ready():
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert seen == [None] * 5
    assert asyncio.run(asyncio.sleep(0, "again")) == "again"


@in_patched_process()
def test_plain_threads_run_their_loops_as_before():
    import asyncio
    import threading

    from rimstone.hub import current_hub

    def work():
        got.append(asyncio.run(asyncio.sleep(0.01, "done")))
        got.append(current_hub())

    got = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert got == ["done", None]


@in_patched_process()
def test_subprocess_of_asyncio():
    import asyncio
    import sys

    from rimstone import joinall, spawn

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('hello')", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out

    tasks = [spawn(asyncio.run, main()) for _ in range(2)]
    joinall(tasks, raise_error=True)
    assert [task.value for task in tasks] == [b"hello\n"] * 2


@in_patched_process()
def test_other_selectors():
    import selectors
    import socket

    from rimstone import sleep, spawn

    for make in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
        one, other = socket.socketpair()
        with make() as selector, one, other:
            selector.register(one, selectors.EVENT_READ, "data")
            assert selector.select(0) == []
            assert selector.select(-1) == []
            assert selector.select(0.005) == []
            task = spawn(selector.select)
            sleep(0)
            sleep(0)
            assert not task.ready()  # parked, or awake for a moment: models may wake in vain
            other.send(b"x")
            ((key, events),) = task.get()
            assert (key.data, events) == ("data", selectors.EVENT_READ)
            selector.modify(one, selectors.EVENT_READ | selectors.EVENT_WRITE)
            assert selector.select()[0][1] == selectors.EVENT_READ | selectors.EVENT_WRITE
