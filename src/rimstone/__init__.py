"""rimstone: plain, blocking Python functions on processes x threads x coroutines.

The public names and nothing else; importing starts no thread, patches nothing and opens no descriptor.
"""

from concurrent.futures import as_completed, wait

from rimstone import monkey
from rimstone._outcome import Outcome
from rimstone.hub import Task, joinall, sleep, spawn
from rimstone.pools.pool import Pool
from rimstone.pools.process import ProcessPoolExecutor
from rimstone.pools.thread import ThreadPoolExecutor

__all__ = [
    "Outcome",
    "Pool",
    "ProcessPoolExecutor",
    "Task",
    "ThreadPoolExecutor",
    "as_completed",
    "joinall",
    "monkey",
    "sleep",
    "spawn",
    "wait",
]
