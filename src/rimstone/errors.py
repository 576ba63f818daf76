"""Every exception of rimstone. Each docstring says whose fault it is and what to do."""

import signal as _signal
from concurrent.futures import BrokenExecutor

from greenlet import GreenletExit

__all__ = [
    "CannotTravel",
    "CannotWait",
    "Deadlock",
    "HubError",
    "IOModelUnavailable",
    "InitializerFailed",
    "PoolClosed",
    "RemoteError",
    "RemoteTraceback",
    "RimstoneError",
    "TaskExit",
    "WorkerDied",
    "WorkerStartFailed",
]


class RimstoneError(Exception):
    """Base of all errors that rimstone raises itself. Errors of your functions arrive as they are."""


class TaskExit(GreenletExit):
    """Raised inside a task by `Task.kill`. Let it pass: a task that ends with it counts as successful.

    It derives from BaseException (through `greenlet.GreenletExit`), so `except Exception` does not swallow it.
    """


class HubError(RimstoneError, RuntimeError):
    """A task was asked to wait or to start where that is impossible; the message says where and what to do instead."""


class CannotWait(HubError):
    """Code that interrupted a task or the scheduler was about to wait, and no other task may run meanwhile.

    A signal handler, a finalizer that the garbage collector runs, or a hook of `os.fork`. Wake a task from there
    (Event.set, SimpleQueue.put, spawn), and let that one wait.
    """


class Deadlock(HubError):
    """Every task of the process waits for another one, for ever; the message lists who waits for what.

    Raised in the thread's main program, only where it is certain; otherwise `rimstone.dump()` shows who waits.
    """


class IOModelUnavailable(RimstoneError, ValueError):
    """The IO model asked for does not exist or does not work here. The message lists those that do."""


class PoolClosed(RimstoneError, RuntimeError):
    """A call was submitted after `shutdown`. Create a new pool, or submit before leaving the `with` block."""


class CannotTravel(RimstoneError, TypeError):
    """A function, argument, result or global cannot be sent to (or from) another process.

    The message names the object. Open such things inside the worker: in the function, or in `initializer=`.
    """


class InitializerFailed(RimstoneError, BrokenExecutor):
    """The pool's `initializer` raised in a worker; no call can run. The cause carries the worker's traceback."""


class WorkerStartFailed(RimstoneError, BrokenExecutor):
    """Worker processes ended before they were ready. What they wrote to stderr says why."""


class WorkerDied(RimstoneError, BrokenExecutor):
    """The worker process ended while it ran this call: killed, out of memory, or crashed in C code.

    Only the calls it had started fail so; the pool lives on and the others ran elsewhere.

    Attributes:
        pid: Process id of the worker.
        signal: Number of the signal that ended it, or None.
        exit_code: Its exit code when it exited by itself, or None when unknown or killed.
        function: Qualified name of the function the call was running.
    """

    def __init__(self, pid: int, signal: int | None = None, exit_code: int | None = None, function: str = "?") -> None:
        super().__init__(pid, signal, exit_code, function)
        self.pid = pid
        self.signal = signal
        self.exit_code = exit_code
        self.function = function

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                how = f"was killed by {_signal.Signals(self.signal).name}"
            except ValueError:
                how = f"was killed by signal {self.signal}"
            if self.signal == _signal.SIGKILL:
                how += " (out of memory, or kill -9)"
        elif self.exit_code is not None:
            how = f"exited with code {self.exit_code}"
        else:
            how = "ended"
        return f"worker process {self.pid} {how} while it ran {self.function}()"


class RemoteTraceback(RimstoneError):
    """The traceback of an exception as it looked in the worker; the `__cause__` of what you caught."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class RemoteError(RimstoneError):
    """Stands for an exception that could not be rebuilt in this process (it does not pickle or unpickle).

    Attributes:
        type_name: Qualified name of the exception's class.
        message: Its `str()`.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"
