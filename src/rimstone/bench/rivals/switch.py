"""Time of one `sleep(0)`, 1,000 tasks in turn. Arguments: rimstone, gevent, asyncio or uvloop; how often each."""

import asyncio
import json
import sys
import time

TASKS = 1000


def with_rimstone(times):
    import rimstone

    def work():
        for _ in range(times):
            rimstone.sleep(0)

    rimstone.joinall([rimstone.spawn(work) for _ in range(TASKS)])


def with_gevent(times):
    import gevent

    def work():
        for _ in range(times):
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(work) for _ in range(TASKS)])


async def in_a_loop(times):
    async def work():
        for _ in range(times):
            await asyncio.sleep(0)

    await asyncio.gather(*[work() for _ in range(TASKS)])


def with_asyncio(times):
    asyncio.run(in_a_loop(times))


def with_uvloop(times):
    import uvloop

    uvloop.run(in_a_loop(times))


run = globals()["with_" + sys.argv[1]]
times = int(sys.argv[2]) if len(sys.argv) > 2 else 400
run(max(1, times // 10))  # imports, specialised bytecode, memory
wall, cpu = time.perf_counter(), time.process_time()
run(times)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"ns_per_switch": wall / times / TASKS * 1e9, "wall_seconds": wall, "cpu_seconds": cpu}))
