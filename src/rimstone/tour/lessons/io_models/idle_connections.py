"""Three ways to multiplex, one socket that has data, and more and more that have none.

select and poll are handed the whole list at each call, and the kernel looks at all of it. epoll was told once, and
returns what is ready. And select ends at descriptor 1,023. Argument: calls to measure (500).
"""

import os
import resource
import select
import sys
import time
from functools import partial

calls = int(sys.argv[1]) if len(sys.argv) > 1 else 500
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
silent, _ = os.pipe()
ready, talking = os.pipe()
os.write(talking, b"data")

for count in (10, 100, 1000, 3000):
    idle = [os.dup(silent) for _ in range(count)]
    poll, epoll = select.poll(), select.epoll()
    for fd in (ready, *idle):
        poll.register(fd, select.POLLIN)
        epoll.register(fd, select.EPOLLIN)
    waits = {"select": partial(select.select, [ready, *idle], [], []), "poll": poll.poll, "epoll": epoll.poll}
    print(f"{count:,} idle:", end="")
    for name, wait in waits.items():
        start = time.perf_counter()
        try:
            for _ in range(calls):
                wait()
            print(f"  {name} {(time.perf_counter() - start) / calls * 1e6:.1f} us", end="")
        except ValueError as error:
            print(f"  {name} {error}", end="")
    print()
    epoll.close()
    for fd in idle:
        os.close(fd)
