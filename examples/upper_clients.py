"""500 clients of the upper-case server, a plain thread each, that check their own replies. Exit status 1: some wrong.

Arguments: port, clients (500), messages each (20). A client that has its first reply waits until all have theirs, so
that all are served at once. When more connect at once than the server's backlog holds, the kernel drops some in
silence (the client believes that it is connected); so whoever hears nothing for two seconds connects again.
"""

import socket
import sys
import threading
import time

port = int(sys.argv[1])
clients = int(sys.argv[2]) if len(sys.argv) > 2 else 500
messages = int(sys.argv[3]) if len(sys.argv) > 3 else 20

all_served = threading.Barrier(clients, timeout=60)
right = []
connected_again = []
errors = []


def check(conn, message):
    conn.sendall(message)
    reply = b""
    while len(reply) < len(message):
        data = conn.recv(1024)
        if len(data) == 0:
            raise ConnectionError(f"the server hung up; sent {message!r}, got {reply!r}")
        reply += data
    if reply != message.upper():
        raise ValueError(f"sent {message!r}, got {reply!r}")
    right.append(reply)


def connect(number):
    for patience in (2, 2, 2, 60):
        try:
            conn = socket.create_connection(("127.0.0.1", port), timeout=patience)
            check(conn, f"client {number} says hello".encode())
        except TimeoutError:
            connected_again.append(number)
        else:
            return conn
    raise TimeoutError("no reply to hello")


def client(number):
    try:
        with connect(number) as conn:
            conn.settimeout(60)
            all_served.wait()
            for n in range(1, messages):
                check(conn, f"client {number}, message {n}".encode())
    except Exception as error:
        errors.append(f"client {number}: {error!r}")
        all_served.abort()


threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
start = time.time()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seconds = time.time() - start

print(f"{clients} clients at once, {len(right)} right replies, {len(errors)} clients failed, {seconds:.3f} s")
if connected_again:
    print(f"{len(connected_again)} times a client heard nothing and connected again")
for error in errors[:10]:
    print(error, file=sys.stderr)
sys.exit(len(right) != clients * messages)
