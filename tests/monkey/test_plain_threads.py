"""In a patched process a thread that runs no tasks sees the standard behaviour."""

from rimstone.testing.patched import in_patched_process


@in_patched_process()
def test_sockets_block_the_thread():
    import socket
    import threading
    import time

    from rimstone.hub import current_hub

    one, other = socket.socketpair()
    got = []

    def read():
        got.append(one.recv(10))
        one.settimeout(0.02)
        try:
            one.recv(10)
        except TimeoutError:
            got.append("timed out")
        got.append(current_hub())

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.01)
    other.send(b"abc")
    thread.join()
    assert got == [b"abc", "timed out", None]
    one.close()
    other.close()


@in_patched_process()
def test_threads_serve_a_hubs_clients_and_the_other_way_round():
    import socket
    import threading

    from rimstone import joinall, spawn

    def serve(listener, connections):
        for _ in range(connections):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(10).upper())

    def client(address):
        with socket.create_connection(address) as sock:
            sock.sendall(b"abc")
            assert sock.recv(10) == b"ABC"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, 20))
        thread.start()
        joinall([spawn(client, listener.getsockname()) for _ in range(20)], raise_error=True)
        thread.join()
        # Now a hub accepts: it makes the listener O_NONBLOCK, yet for a plain thread it blocks as before.
        server = spawn(serve, listener, 20)
        threads = [threading.Thread(target=client, args=(listener.getsockname(),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        server.get()
        for thread in threads:
            thread.join()
        assert listener.gettimeout() is None
        thread = threading.Thread(target=serve, args=(listener, 1))
        thread.start()
        spawn(client, listener.getsockname()).get()
        thread.join()


@in_patched_process()
def test_one_socket_between_a_hub_and_a_thread():
    import socket
    import threading

    from rimstone import spawn

    one, other = socket.socketpair()
    with one, other:

        def echo_natively():
            for _ in range(100):
                one.sendall(one.recv(10))

        def ask():
            for number in range(100):
                other.sendall(b"%d" % number)
                assert other.recv(10) == b"%d" % number

        reader = spawn(one.recv, 10)
        other.sendall(b"first")
        assert reader.get() == b"first"  # the hub knows this socket now
        thread = threading.Thread(target=echo_natively)
        thread.start()
        spawn(ask).get()
        thread.join()


@in_patched_process()
def test_locks_and_queues_between_tasks_and_threads():
    import queue
    import threading

    from rimstone import joinall, spawn

    for make in (queue.Queue, queue.SimpleQueue, queue.LifoQueue):
        asked, answered = make(), make()

        def work(asked=asked, answered=answered):
            while (item := asked.get()) is not None:
                answered.put(item * 2)

        threads = [threading.Thread(target=work) for _ in range(3)]
        tasks = [spawn(work) for _ in range(3)]
        for thread in threads:
            thread.start()

        def feed(asked=asked, answered=answered):
            for number in range(300):
                asked.put(number)
            return sorted(answered.get(timeout=20) for _ in range(300))

        assert spawn(feed).get() == [2 * number for number in range(300)]
        for _ in range(6):
            asked.put(None)
        joinall(tasks, raise_error=True)
        for thread in threads:
            thread.join()


@in_patched_process()
def test_executors_keep_real_threads():
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    from rimstone import joinall, spawn

    with ThreadPoolExecutor(4) as pool:

        def use(number):
            future = pool.submit(lambda: (time.sleep(0.01), threading.get_ident())[1])
            assert future.result(timeout=20) != threading.get_ident()
            return number

        tasks = [spawn(use, number) for number in range(20)]
        joinall(tasks, raise_error=True)
        assert [task.value for task in tasks] == list(range(20))


@in_patched_process()
def test_threads_started_and_awaited_by_tasks():
    import threading

    from rimstone import joinall, spawn

    def start():
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start()
        assert done.wait(20)
        thread.join()

    joinall([spawn(start) for _ in range(20)], raise_error=True)
