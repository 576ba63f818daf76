"""rimstone: plain, blocking Python functions on processes x threads x coroutines.

The public names and nothing else; importing starts no thread, patches nothing and opens no descriptor. Each name is
loaded at its first use: every worker process imports this package, and needs neither the pools nor the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rimstone._core import choose_core

if TYPE_CHECKING:  # what editors and type checkers see; `_HOMES` says the same to Python
    from concurrent.futures import as_completed, wait

    from rimstone import monkey
    from rimstone._outcome import Outcome
    from rimstone.hub import Task, TaskGroup, Timeout, joinall, sleep, spawn, tasks
    from rimstone.hub.dump import dump
    from rimstone.pools.pool import Pool
    from rimstone.pools.process import ProcessPoolExecutor
    from rimstone.pools.thread import ThreadPoolExecutor

__all__ = [
    "Outcome",
    "Pool",
    "ProcessPoolExecutor",
    "Task",
    "TaskGroup",
    "ThreadPoolExecutor",
    "Timeout",
    "as_completed",
    "dump",
    "joinall",
    "monkey",
    "sleep",
    "spawn",
    "tasks",
    "wait",
]

choose_core()

_HOMES = {
    "Outcome": "rimstone._outcome",
    "Pool": "rimstone.pools.pool",
    "ProcessPoolExecutor": "rimstone.pools.process",
    "Task": "rimstone.hub",
    "TaskGroup": "rimstone.hub",
    "ThreadPoolExecutor": "rimstone.pools.thread",
    "Timeout": "rimstone.hub",
    "as_completed": "concurrent.futures",
    "dump": "rimstone.hub",
    "joinall": "rimstone.hub",
    "sleep": "rimstone.hub",
    "spawn": "rimstone.hub",
    "tasks": "rimstone.hub",
    "wait": "concurrent.futures",
}


def __getattr__(name: str) -> Any:
    if name == "monkey":
        return import_module("rimstone.monkey")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
