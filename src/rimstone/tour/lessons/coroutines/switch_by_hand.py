"""Two tasks on one thread that switch by hand: `sleep(0)` means "the others first".

Each keeps its state: it goes on where it was, with its own variables. Without the `sleep(0)` the first would run to its
end before the second begins. Argument: switches to measure (200,000).
"""

import sys
import threading
import time

from rimstone import joinall, sleep, spawn

switches = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000


def count(name):
    for n in range(3):
        print(name, n, "on thread", threading.get_native_id())
        sleep(0)


joinall([spawn(count, "a"), spawn(count, "b")])


def switch():
    for _ in range(switches // 2):
        sleep(0)


start = time.perf_counter()
joinall([spawn(switch), spawn(switch)])
seconds = time.perf_counter() - start
print(f"{switches:,} switches: {seconds:.2f} s, {seconds / switches * 1e6:.2f} microseconds each")
