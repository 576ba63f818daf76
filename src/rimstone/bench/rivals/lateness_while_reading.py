"""How late a sibling's timer is while 1 GB is read. Arguments: who reads it; how; cold, cached; MB.

Who: `unpatched` (the thread that runs the tasks), `threads`, `uring`.
How: `whole` (one `read()`), `pieces` (1 MB each), `lines` (of 100 characters), `os` (`os.read`, 64 KB each).
"""

import json
import os
import sys
import tempfile
import time

who, how, cache = sys.argv[1:4]
if who != "unpatched":
    import rimstone.monkey

    rimstone.monkey.patch_all()
from rimstone import sleep, spawn
from rimstone.hub import get_hub
from rimstone.iomodel.uring import UringModel

PERIOD_SECONDS = 0.001
if who == "uring":
    if why := UringModel.why_unavailable():
        sys.exit(print(json.dumps({"skipped": why})))
    get_hub(UringModel)
elif who == "threads" and get_hub().io.completes_files:
    sys.exit(print(json.dumps({"skipped": f"the IO model {get_hub().io.name} reads files itself"})))
size = int(sys.argv[4] if len(sys.argv) > 4 else 1024) * 2**20


def read(name):
    if how == "os":
        fd = os.open(name, os.O_RDONLY)
        while os.read(fd, 65_536):
            pass
        os.close(fd)
        return
    with open(name, "r" if how == "lines" else "rb") as file:
        if how == "whole":
            data.append(file.read())  # freed when all is measured
        elif how == "pieces":
            while file.read(2**20):
                pass
        else:
            for _ in file:
                pass


def tick():
    while True:
        due = time.perf_counter() + PERIOD_SECONDS
        sleep(PERIOD_SECONDS)
        late.append(time.perf_counter() - due)


late, data = [], []
with tempfile.NamedTemporaryFile(dir=".") as file:
    piece = (b"x" * 99 + b"\n") * 10_000
    for _ in range(size // len(piece)):
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cache == "cached":
        read(file.name)
    ticker = spawn(tick)
    sleep(0.1)
    late.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    spawn(read, file.name).get()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sleep(2 * PERIOD_SECONDS)
    ticker.kill()

late.sort()
found = {
    "ms_median": late[len(late) // 2] * 1e3,
    "ms_p99": late[len(late) * 99 // 100] * 1e3,
    "ms_most": late[-1] * 1e3,
}
print(json.dumps({**found, "ticks": len(late), "wall_seconds": wall, "cpu_seconds": cpu}))
