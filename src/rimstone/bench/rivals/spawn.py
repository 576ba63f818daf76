"""Time to spawn a task that yields once and to join it, all at once. Arguments: rimstone, gevent, asyncio; how many."""

import asyncio
import json
import sys
import time


def with_rimstone(tasks):
    import rimstone

    def work():
        rimstone.sleep(0)

    rimstone.joinall([rimstone.spawn(work) for _ in range(tasks)])


def with_gevent(tasks):
    import gevent

    def work():
        gevent.sleep(0)

    gevent.joinall([gevent.spawn(work) for _ in range(tasks)])


def with_asyncio(tasks):
    async def work():
        await asyncio.sleep(0)

    async def main():
        for task in [asyncio.create_task(work()) for _ in range(tasks)]:
            await task

    asyncio.run(main())


run = globals()["with_" + sys.argv[1]]
tasks = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
run(1000)  # imports, specialised bytecode
wall, cpu = time.perf_counter(), time.process_time()
run(tasks)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"ns_per_task": wall / tasks * 1e9, "tasks": tasks, "wall_seconds": wall, "cpu_seconds": cpu}))
