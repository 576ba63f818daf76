"""A function that the hub calls at a given time, between two tasks. What `Timeout` stands on."""

from collections.abc import Callable

from rimstone.hub.scheduler import Hub
from rimstone.hub.taskcore import TaskCore
from rimstone.hub.timers import NEVER

__all__ = ["Alarm"]


class Alarm(TaskCore):
    """Calls *function* once, in the hub's thread. It must not wait, and what it raises goes to the hub's root task.

    The timers know it as a task that is parked until then. Setting it costs as much as a park's deadline does.
    """

    __slots__ = ()

    def __init__(self, hub: Hub, function: Callable[[], object]) -> None:
        super().__init__(hub, function, (), {}, "alarm")

    def set(self, deadline: float) -> None:
        """Call the function at *deadline* (on `clock.monotonic`) rather than when it was set to before."""
        self.deadline = deadline
        if deadline < self.timer:
            self.hub.add_timer(self)

    def cancel(self) -> None:
        """Do not call it. Idempotent."""
        self.deadline = NEVER

    def fire(self) -> None:
        self.deadline = NEVER
        self._function()
