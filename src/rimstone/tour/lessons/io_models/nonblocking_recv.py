"""Non-blocking: `recv` returns at once. Without data it raises BlockingIOError, and the program must ask again.

Asked without a pause, it burns a CPU; with a pause, it hears of the data too late. The data comes after half a second.
Argument: seconds (0.5).
"""

import socket
import sys
import threading
import time

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
near, far = socket.socketpair()


def send():
    far.sendall(str(time.time()).encode())


def receive(pause):
    asked = 0
    while True:
        asked += 1
        try:
            return near.recv(1024), asked
        except BlockingIOError:  # nothing yet; do something else meanwhile
            if pause is not None:
                time.sleep(pause)


for label, pause in (("blocking", None), ("non-blocking", None), ("with a pause of 50 ms", 0.05)):
    near.setblocking(label == "blocking")
    sender = threading.Timer(seconds, send)
    sender.start()
    cpu = time.process_time()
    data, asked = receive(pause)
    late, cpu = time.time() - float(data), time.process_time() - cpu
    print(f"{label}: asked {asked:,} times, {cpu:.3f} s of CPU, {late * 1000:.2f} ms late")
    sender.join()
