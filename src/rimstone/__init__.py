"""rimstone: plain, blocking Python functions on processes x threads x coroutines.

The public names and nothing else; importing starts no thread, patches nothing and opens no descriptor.
"""

from rimstone import monkey
from rimstone._outcome import Outcome
from rimstone.hub import Task, joinall, sleep, spawn

__all__ = ["Outcome", "Task", "joinall", "monkey", "sleep", "spawn"]
