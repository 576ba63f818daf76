"""Memory of a task parked in `sleep(3600)`. Arguments: rimstone, gevent, greenlet or asyncio; how many (20,000)."""

import asyncio
import json
import os
import sys

started = []  # gevent starts a few of many tasks at a time, so each says that it has


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def report(before, tasks):
    used = rss_bytes() - before
    print(json.dumps({"bytes_per_task": used / len(tasks), "tasks": len(tasks)}), flush=True)
    os._exit(0)  # ending so many tasks is not what is measured


def with_rimstone(count):
    import rimstone

    def work():
        started.append(None)
        rimstone.sleep(3600)

    first = [rimstone.spawn(work)]
    rimstone.sleep(0.01)
    before = rss_bytes()
    tasks = [rimstone.spawn(work) for _ in range(count)]
    while len(started) <= count:
        rimstone.sleep(0.01)
    report(before, tasks + first)


def with_gevent(count):
    import gevent

    def work():
        started.append(None)
        gevent.sleep(3600)

    first = [gevent.spawn(work)]
    gevent.sleep(0.01)
    before = rss_bytes()
    tasks = [gevent.spawn(work) for _ in range(count)]
    while len(started) <= count:
        gevent.sleep(0.01)
    report(before, tasks + first)


def with_greenlet(count):
    """The floor: a greenlet whose function has switched back, with nothing around it."""
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def work():
        main.switch()

    first = [greenlet(work)]
    first[0].switch()
    before = rss_bytes()
    tasks = [greenlet(work) for _ in range(count)]
    for task in tasks:
        task.switch()
    report(before, tasks + first)


def with_asyncio(count):
    async def work():
        started.append(None)
        await asyncio.sleep(3600)

    async def main():
        first = [asyncio.create_task(work())]
        await asyncio.sleep(0.01)
        before = rss_bytes()
        tasks = [asyncio.create_task(work()) for _ in range(count)]
        while len(started) <= count:  # noqa: ASYNC110  # as the others do
            await asyncio.sleep(0.01)
        report(before, tasks + first)

    asyncio.run(main())


globals()["with_" + sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
