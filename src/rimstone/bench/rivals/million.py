"""A million parked tasks in one process, ended in random order; half-way, threads and memory must still be had.

Greenlets that end here and there leave holes between their stacks, and each hole costs two memory maps: a process may
have vm.max_map_count of them, after which neither a thread nor a big object can be had. Argument: how many (1,000,000).
"""

import json
import os
import random
import sys
import threading
import time

import rimstone
from rimstone.hub import waiter

NEEDED_BYTES = 10 << 30
AT_ONCE = 1000  # woken before they get the chance to end


def number_in(path, key=""):
    """The number behind *key* in a file of /proc."""
    with open(path) as file:
        return next(int(line.split()[-1 if not key else 1]) for line in file if line.startswith(key))


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def map_count():
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


waiters = []


def work():
    own = waiter()
    waiters.append(own)
    own.park()


def end(numbers):
    """Wake these tasks in this order, and wait until they have ended."""
    for start in range(0, len(numbers), AT_ONCE):
        for number in numbers[start : start + AT_ONCE]:
            waiters[number].unpark()
        rimstone.sleep(0)
    rimstone.joinall([tasks[number] for number in numbers])


def problems():
    """What no longer works in this process."""
    found = []
    try:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    except RuntimeError as error:
        found.append(f"a thread does not start: {error}")
    try:
        bytearray(1 << 20)
    except MemoryError:
        found.append("1 MB cannot be allocated")
    if map_count() >= most_maps:
        found.append(f"{map_count()} memory maps, and vm.max_map_count is {most_maps}")
    return found


count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
most_maps = number_in("/proc/sys/vm/max_map_count")
available = number_in("/proc/meminfo", "MemAvailable:") * 1024
if count >= 1_000_000 and available < NEEDED_BYTES:
    print(json.dumps({"skipped": f"needs 10 GB of memory, and {available / (1 << 30):.1f} GB are available"}))
    sys.exit()

rimstone.spawn(int).join()
before, wall, cpu = rss_bytes(), time.perf_counter(), time.process_time()
tasks = [rimstone.spawn(work) for _ in range(count)]
while len(waiters) < count:
    rimstone.sleep(0)
result = {
    "bytes_per_task": (rss_bytes() - before) / count,
    "tasks": count,
    "park_seconds": time.perf_counter() - wall,
    "maps_when_parked": map_count(),
}
order = list(range(count))
random.Random(1).shuffle(order)
end(order[: count // 2])
result |= {"maps_half_way": map_count(), "max_map_count": most_maps, "problems": problems()}
end(order[count // 2 :])
result |= {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
print(json.dumps(result))
