"""The scheduler of one thread: tasks, park and unpark, task-local storage. Read `scheduler.py`, then `task.py`."""

from rimstone.hub.dump import dump, dump_on_signal, tasks
from rimstone.hub.group import TaskGroup
from rimstone.hub.local import local
from rimstone.hub.parking import Waiter, waiter
from rimstone.hub.scheduler import Hub, close_hub, current_hub, get_hub, live_tasks, swap_guest
from rimstone.hub.task import Task, current_task, joinall, sleep, spawn
from rimstone.hub.taskcore import Guest
from rimstone.hub.timeout import Timeout

__all__ = [
    "Guest",
    "Hub",
    "Task",
    "TaskGroup",
    "Timeout",
    "Waiter",
    "close_hub",
    "current_hub",
    "current_task",
    "dump",
    "dump_on_signal",
    "get_hub",
    "joinall",
    "live_tasks",
    "local",
    "sleep",
    "spawn",
    "swap_guest",
    "tasks",
    "waiter",
]
