"""The contract of an IO model: how one hub waits for descriptors. Read this, then `_readiness.py`, then `epoll.py`.

The contract is made of operations (recv, send, accept, connect, wait), not of readiness, so that a model which is told
"this descriptor can be read" (select, epoll) and one which is told "this read has completed" (io_uring) fill the same
slot. An operation is called by a task and may park it; `poll` is called by the scheduler and makes tasks ready; `wake`
may be called by anybody.

A model knows the hub above it only as a `Scheduler`, given at construction, and a task only as a `Waiting`.

The two classes are plain ones, not ABCs or protocols, because the compiled core makes C types of them (`base.pxd`);
the contract suite in `rimstone.testing` is what tells whether a model is whole.
"""

from typing import Any

__all__ = [
    "CLOSED",
    "FOREVER",
    "IO",
    "KILLED",
    "NEVER",
    "READ",
    "TIMEOUT",
    "UNPARKED",
    "WRITE",
    "Buffer",
    "IOModel",
    "Scheduler",
    "Waiting",
]

READ = 1
WRITE = 2

# Why a park ended. Plain ints: an exception object per wait is where gevent's time goes.
UNPARKED = 1
TIMEOUT = 2
IO = 3
KILLED = 4
CLOSED = 5  # what it waited for is going to be closed

FOREVER = None
NEVER = float("inf")  # a deadline

Buffer = Any  # anything with the buffer protocol; collections.abc.Buffer arrives with Python 3.12


class Waiting:
    """What an IO model knows of a task: what it waits for.

    A signal handler may strike the task anywhere in an operation, and do operations of its own in its name. So an
    operation keeps what it has to know in its own variables, and nothing here outlives a wait.

    Attributes:
        waiting: What it waits for now, or waited for last: something of the model's, or what others unpark.
        enlisted: True from before anybody is told what it is going to wait for, until a wait has ended. That may be
            another one: of a signal handler that has struck in between. What would have ended this wait may have come
            meanwhile, so `Scheduler.wait` comes back at once then, and the task tries again.
    """

    __slots__ = ("enlisted", "waiting")

    def __init__(self) -> None:
        self.waiting: Any = None
        self.enlisted = False


class Scheduler:
    """What an IO model needs of its hub.

    Attributes:
        current: The task that runs now, a `Waiting`; the model keeps it while it waits and gives it back to
            `make_ready` or `happened`.
        budget: How many operations the current task may still do without a wait; then it must `give_way`.
    """

    def __init__(self) -> None:
        self.current: Any = None
        self.budget = 0

    def park(self, deadline: float | None = None) -> int:
        """Suspend the current task until `make_ready`, *deadline* or a kill (which raises). Returns the reason."""
        raise NotImplementedError

    def wait(self, waiting: Any, until: float, ready: bool = False) -> int:
        """Suspend the current task until something makes it ready, *until* at the latest; returns why it goes on.

        The caller has set the task's `enlisted` before anything else. This is what `park` stands on, and what an
        operation uses that must be shallow (see `begin_recv`): a kill is not raised here but returned as KILLED, and
        the caller undoes what it has to undo and then calls `raise_pending` of the task. UNPARKED may come for no
        reason at all: who was told of nothing looks again.

        Args:
            waiting: What it waits for: the task's `waiting` from now on.
            until: On `clock.monotonic`; `NEVER` if the wait has no end.
            ready: It waits for nothing, and only lets every other ready task run once.
        """
        raise NotImplementedError

    def reschedule(self) -> None:
        """Let every other ready task run once, look for events, then go on. A kill is raised here."""
        raise NotImplementedError

    def give_way(self) -> None:
        """The task has used up its `budget`: reschedule it, if it may wait where it is now."""
        raise NotImplementedError

    def check_wait(self) -> None:
        """Raise CannotWait where this code may not wait. Before a wait is noted anywhere: `current` may be another's.

        It is then the task that a signal handler or a finalizer has struck, which waits for something of its own.
        """
        raise NotImplementedError

    def may_wait(self) -> bool:
        """False where a wait is refused: in a signal handler that interrupted the scheduler, in a finalizer."""
        raise NotImplementedError

    def make_ready(self, task: Any, reason: int) -> None:
        """Let *task* run again. One that is about to wait comes back at once; without effect on any other."""
        raise NotImplementedError

    def throw_later(self, thrown: "list[BaseException]") -> None:
        """Raise what was *thrown* into the current task, during a wait that had to go on, at its next waits, in order.

        An operation that cannot be broken off calls `wait` until it is done, and takes away the task's `pending` each
        time that this says KILLED.
        """
        raise NotImplementedError

    def wake_if_blocked(self) -> None:
        """A signal handler may have made a task ready while this thread waits in `poll`: end that. Hub's thread."""
        raise NotImplementedError

    def happened(self, task: Any, waiting: object) -> None:
        """There is news of *waiting*: let *task* run again, if that is what it is parked on, or may be about to."""
        raise NotImplementedError


class IOModel:
    """Waits for the descriptors of one hub.

    Every operation takes the socket object (its `fileno()` and family are used, its own timeout is not) and `timeout`
    in seconds, None for ever. All raise `TimeoutError("timed out")` when it passes, `OSError` as the system call does,
    and whatever `Task.kill` throws into the waiting task.

    Call from: the hub's own thread, except `wake`. After fork: the child must not use the parent's model.

    Attributes:
        name: What RIMSTONE_IO_MODEL calls it.
        max_fd: The highest descriptor that a task can wait for; None where the model sets no limit.
        completes_files: True if it has the operations on regular files; for the others real threads do them, since
            such a file is always "ready" and then waits in the system call. `hub/files.py` chooses.
        compiled_only: True if there is none in plain Python.
    """

    name = ""
    max_fd = None  # type: int | None
    completes_files = False
    compiled_only = False

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    @classmethod
    def why_unavailable(cls) -> str | None:
        """Why this model cannot be used here, in words; None when it works."""
        return None

    # -- operations, called by tasks ---------------------------------------------------------------------------

    def recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> bytes:
        """Receive up to *size_bytes*; b"" at the end of the stream."""
        raise NotImplementedError

    def begin_recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> Any:
        """The first half of `recv`, all of it that needs no wait: bytes, or what the current task must wait for.

        Then the caller hands that to `scheduler.wait`, and it and the reason to `end_recv`, which may say the same
        again. The C stack of a parked task is copied twice for each wait, so nothing more of the model's shall lie
        on it.
        """
        return self.recv(sock, size_bytes, flags, timeout)

    def end_recv(self, sock: Any, size_bytes: int, flags: int, waiting: Any, until: float, reason: int) -> Any:
        """The second half, after the wait for *waiting*, *until* then at the latest; *reason* is why it ended."""
        raise NotImplementedError

    def recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> int:
        """Receive into *buffer* (all of it when *size_bytes* is 0); returns the count.

        While the task waits, *buffer* cannot be resized by others (BufferError), as in the standard library.
        """
        raise NotImplementedError

    def begin_recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> Any:
        """The first half of `recv_into`, as `begin_recv` is of `recv`: an int; else the current task must wait for it.

        Then the caller sees to it that *buffer* is not resized until the last `end_recv_into`: it exports it.
        """
        return self.recv_into(sock, buffer, size_bytes, flags, timeout)

    def end_recv_into(
        self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, waiting: Any, until: float, reason: int
    ) -> Any:
        """The second half, as `end_recv` is."""
        raise NotImplementedError

    def send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> int:
        """Send *data*: all of it when *timeout* is None, as a blocking socket does, else what there is room for."""
        raise NotImplementedError

    def begin_send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> Any:
        """The first half of `send`, as `begin_recv` is of `recv`: an int; else the current task must wait for it."""
        return self.send(sock, data, flags, timeout)

    def end_send(self, sock: Any, data: Buffer, flags: int, waiting: Any, until: float, reason: int) -> Any:
        """The second half, as `end_recv` is."""
        raise NotImplementedError

    def sendall(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> None:
        """Send all of *data*; *timeout* covers the whole of it, as in `socket.sendall`."""
        raise NotImplementedError

    def accept(self, sock: Any, timeout: float | None) -> tuple[int, Any]:
        """Take the next connection: (new descriptor, peer address)."""
        raise NotImplementedError

    def connect(self, sock: Any, address: Any, timeout: float | None) -> None:
        """Connect to *address*, whose host must be numeric already."""
        raise NotImplementedError

    def connect_ex(self, sock: Any, address: Any, timeout: float | None) -> int:
        """As `connect`, but return an errno, 0 for none and EAGAIN when *timeout* has passed: `socket.connect_ex`.

        What was thrown into the task is raised, were it an OSError.
        """
        raise NotImplementedError

    def call(self, sock: Any, direction: int, method: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Run the socket method named *method*, whose last argument is its flags, until it does not block.

        *args* include MSG_DONTWAIT; a *timeout* of 0 makes one attempt. For the operations that have no entry of their
        own: recvfrom, recvmsg, sendto, sendmsg and their kin.
        """
        raise NotImplementedError

    def wait(self, fd: int, events: int, deadline: float | None = None) -> bool:
        """Wait until *fd* is ready for READ or WRITE (or-ed); level-triggered: true at once if it is ready now.

        Returns False when *deadline* (on `clock.monotonic`) passed. A regular file is always ready.

        Raises:
            OSError: EBADF; it is not open, or is being closed (see `forget`).
        """
        raise NotImplementedError

    def wait_socket(self, sock: Any, events: int, deadline: float | None = None) -> bool:
        """Like `wait`, for a caller that has just seen EAGAIN on *sock*; may be edge-triggered, hence cheaper."""
        raise NotImplementedError

    def cancel(self, task: Any) -> None:
        """*task* is going to be thrown out of its wait: nothing more may be taken from a descriptor in its name.

        Only a model that acts for its tasks while they wait has anything to do; here is nothing.
        """

    def forget(self, fd: int, detached: Any = None) -> None:
        """The descriptor is about to be closed by its owner: wake who waits for it; they see EBADF.

        Args:
            fd: The descriptor.
            detached: The socket object that only gives the number up, without closing it. When another living socket
                object has the same number and waits on it, nothing happens.
        """
        raise NotImplementedError

    # On regular files; only called if `completes_files`. None of them is ended by a kill or a timeout: the kernel works
    # on the caller's buffer until it is done, and what it has read would be lost. The task goes on when it is done, and
    # what was thrown into it is raised at its next park. An error is raised as the system call's OSError.
    #
    # They do not know the descriptor's own position, which only read(2) and write(2) keep for one caller at a time:
    # `hub/files.py` sees to that.

    def read_file(self, fd: int, buffer: Buffer, offset: int) -> int:
        """Fill *buffer*; returns the count, less only at the end of the file, or before an error.

        Args:
            fd: A regular file or a block device.
            buffer: Writable, contiguous, of bytes.
            offset: Where in the file.
        """
        raise NotImplementedError

    def read_bytes(self, fd: int, size: int, offset: int) -> bytes:
        """As `read_file`, up to *size* bytes, into bytes of their own: a gigabyte is not to be copied for that."""
        raise NotImplementedError

    def write_file(self, fd: int, data: Buffer, offset: int) -> int:
        """Write *data*; returns the count, less only where write(2) does so, or before an error.

        Args:
            fd: A regular file or a block device.
            data: Contiguous.
            offset: Where in the file; -1 for its end, if it is open in append mode (the position moves there).
        """
        raise NotImplementedError

    def sync_file(self, fd: int, data_only: bool) -> None:
        """fsync(2); or fdatasync(2) if *data_only*."""
        raise NotImplementedError

    # -- called by the scheduler -------------------------------------------------------------------------------

    def poll(self, timeout: float | None) -> None:
        """Make ready what became ready; waits up to *timeout* seconds (None: for ever, 0: not at all)."""
        raise NotImplementedError

    def waits(self) -> bool:
        """True while a task waits for a descriptor."""
        raise NotImplementedError

    def threads(self) -> int:
        """How many threads of its own it has now. While `waits` is False they wake nobody (see `hub/deadlock.py`)."""
        return 0

    def wake(self) -> None:
        """End a `poll` that waits, or the next one. Any thread, also from a signal handler."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back every descriptor of the model itself. Idempotent."""
        raise NotImplementedError
