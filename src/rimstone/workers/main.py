"""WorkerMain: a worker process from the inside. Read `wire.py`, `setup.py` and `admission.py` first.

Two kinds of threads. Calls run on the *call threads*: the main thread is the first, so that functions which insist on
the main thread (signal handlers) find it; others are started when admission asks for them. Each has a hub. The *wire
thread* reads calls, learns functions (so that imports happen before any task runs, and no task sees a half-made
module), writes reports and watches for stuck threads; it never runs a call.

Flow of a call: wire -> admission -> a call thread's hub takes it when idle -> task -> outbox -> wire.

How it ends: the pool says STOP and every call is done; or the pool's end of the wire is closed, or the pool's process
is dead (the kernel then kills this one, even if it computes in C and holds the interpreter lock).
"""

import atexit
import contextlib
import contextvars
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import NoReturn

from rimstone import machine, monkey
from rimstone._originals import RawSocket, Thread
from rimstone.errors import CannotTravel, TaskExit
from rimstone.hub import Task, Waiter, get_hub, waiter
from rimstone.iomodel._wakeup import Wakeup
from rimstone.workers.admission import Admission, Seat, WorkerCall
from rimstone.workers.namespace import FunctionTable, install_main
from rimstone.workers.pickling import dump_error, dump_result, load_arguments
from rimstone.workers.placement import BUSY_SECONDS, FunctionKind
from rimstone.workers.setup import Mark, Setup, StartedSlots
from rimstone.workers.threadclock import thread_cpu_clock
from rimstone.workers.wire import Channel, ChannelClosed, Kind

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_DESCRIPTORS_A_CALL = 3  # a socket, a file, and one to spare
_DESCRIPTORS_KEPT = 32
_REPORT_BYTES = 32 * 1024  # results that go into one message, so that small ones need no memory file


def main(wire_fd: int, started_fd: int, slots: int) -> NoReturn:
    """The whole life of a worker process; called by the command line that `ProcessWorker` builds."""
    # Ctrl-C is the parent's to decide. A handler that does nothing, rather than SIG_IGN, because "ignore" would be
    # inherited by every program that a call starts, and those should stop at Ctrl-C as they always do.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.enable()
    channel = Channel(RawSocket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, wire_fd))
    os.set_inheritable(wire_fd, False)
    started = StartedSlots(started_fd, slots)
    started.close_file()
    try:
        message = channel.receive(block=True)
    except ChannelClosed:
        os._exit(0)
    assert message is not None
    setup: Setup = message[1]
    _die_with_parent(setup.parent_pid)
    sys.path[:] = setup.path
    sys.argv[:] = setup.argv
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what calls print appears at once
    if setup.patch:
        monkey.patch_all()
    machine.raise_descriptor_limit()
    install_main(setup.argv, setup.script)
    WorkerMain(channel, started, setup).run()


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens. Linux; elsewhere EOF must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before we could ask
        os._exit(0)


class WorkerMain:
    """The two kinds of threads and what lies between them."""

    def __init__(self, channel: Channel, started: StartedSlots, setup: Setup) -> None:
        self._channel = channel
        self._started = started
        self._setup = setup
        self._functions = FunctionTable()
        self._outbox: deque[tuple[int, bool, bytes]] = deque()  # (slot, returned, pickled value or error)
        self._wakeup = Wakeup()
        self._news = True  # something for the wire thread to look at
        self._wire_sleeps = False
        self._last_limit = -1
        self._stopping = False
        self._all_done = False
        self._main_waits: Waiter | None = None
        self._base_context = contextvars.copy_context()  # what every call starts with
        self._admission = Admission(
            setup.threads, setup.coroutines, self._most_calls(), self._start_call_thread, self._wake_wire
        )

    def _most_calls(self) -> int:
        """Calls held at once: threads x coroutines, or what the descriptors allow."""
        most = self._setup.threads * self._setup.coroutines
        limit = machine.descriptors()[0].value
        if limit is None:
            return most
        free = limit - (machine.open_descriptors().value or 0) - _DESCRIPTORS_KEPT
        return max(1, min(most, free // _DESCRIPTORS_A_CALL))

    def run(self) -> NoReturn:
        """Body of the main thread."""
        get_hub()
        pid = os.getpid()
        self._initialize()
        if os.getpid() != pid:
            os._exit(0)  # the initializer has forked, and this is the child
        seat = Seat(0)
        self._admission.seats.append(seat)
        self._occupy(seat)
        Thread(target=self._serve_wire, name=f"{self._setup.name}-wire", daemon=True).start()
        done = self._main_waits = waiter()
        if self._all_done:
            done.cancel()
        else:
            done.park()
        self._leave()

    def _leave(self) -> NoReturn:
        """Stopped by the pool, with nothing left to do: end as a program does, but without waiting for threads."""
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)

    def _initialize(self) -> None:
        if self._setup.initializer is None:
            return
        function, arguments = self._setup.initializer
        try:
            self._functions.learn(0, function)
            args, kwargs = load_arguments(arguments)
            self._functions.get(0)(*args, **kwargs)
        except BaseException as error:
            with contextlib.suppress(ChannelClosed):
                self._channel.send(Kind.BROKEN, dump_error(error))
            self._leave()

    # -- call threads ------------------------------------------------------------------------------------------

    def _start_call_thread(self, seat: Seat) -> None:
        Thread(target=self._run_call_thread, args=(seat,), name=f"{self._setup.name}-{seat.index}", daemon=True).start()

    def _run_call_thread(self, seat: Seat) -> None:
        try:
            self._occupy(seat)
        except OSError:  # no descriptors for another hub
            self._admission.give_up(seat)
            return
        waiter().park()  # for ever: the thread ends with the process

    def _occupy(self, seat: Seat) -> None:
        """Make the calling thread run the calls of *seat* from now on, whenever it is idle."""
        hub = get_hub()
        seat.cpu_clock = thread_cpu_clock()

        def on_idle() -> bool:
            call = self._admission.take(seat)
            if call is None:
                return False
            task: Task[None] = Task(hub, self._run_call, (seat, call), {}, f"call-{call.slot}")
            task.context = self._base_context.copy()
            hub.start(task)
            return True

        hub.on_idle = on_idle
        seat.hub = hub

    def _run_call(self, seat: Seat, call: WorkerCall) -> None:
        """Body of a call's task. Whatever happens, the pool gets exactly one answer."""
        self._started[call.slot] = Mark.STARTED
        try:
            function = self._functions.get(call.function)
            args, kwargs = load_arguments(call.arguments)
            result = function(*args, **kwargs)
            answer = (call.slot, True, dump_result(result, getattr(function, "__qualname__", None)))
            del result
        except BaseException as error:
            if seat.hub is not None and seat.hub.forked:
                raise  # see below
            answer = (call.slot, False, self._describe(error))
        if seat.hub is not None and seat.hub.forked:
            return  # the call has forked and this is the child, whose task now ends it; nothing here is its business
        # In this order: once nothing is held, everything is in the outbox.
        self._outbox.append(answer)
        self._admission.finish(seat, call)
        self._wake_wire()

    def _describe(self, error: BaseException) -> bytes:
        try:
            return dump_error(error)
        except TaskExit:
            raise
        except BaseException as worse:  # an exception whose __str__ raises, and the like
            what = f"{type(error).__name__}, which cannot be described ({type(worse).__name__})"
            return dump_error(RuntimeError(what))

    # -- wire thread -------------------------------------------------------------------------------------------

    def _wake_wire(self) -> None:
        self._news = True
        if self._wire_sleeps:
            self._wire_sleeps = False
            self._wakeup.set()

    def _serve_wire(self) -> None:
        try:
            self._channel.send(Kind.READY, self._admission.announce_limit())
            with select.epoll() as poller:
                poller.register(self._channel.fd, select.EPOLLIN)
                poller.register(self._wakeup.fd, select.EPOLLIN)
                while True:
                    self._news = False
                    self._read_calls()
                    self._report()
                    self._wait(poller)
        except ChannelClosed:
            os._exit(0)  # nobody is there to take a result
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)  # the pool sees a worker that died, and sends its calls elsewhere

    def _wait(self, poller: "select.epoll") -> None:
        self._wire_sleeps = True
        needs_tick = self._admission.needs_tick()
        if self._news:  # came after the last look
            self._wire_sleeps = False
            if needs_tick:  # news may never end, and stuck threads must be seen all the same
                self._admission.tick()
            return
        events = poller.poll(BUSY_SECONDS if needs_tick else None)
        self._wire_sleeps = False
        if any(fd == self._wakeup.fd for fd, _ in events):
            self._wakeup.clear()
        if needs_tick:
            self._admission.tick()

    def _read_calls(self) -> None:
        while (message := self._channel.receive(block=False)) is not None:
            kind, content = message
            if kind is Kind.STOP:
                self._stopping = True
                continue
            functions, forgotten, calls = content
            if functions:
                self._learn(functions, calls)
            if forgotten:
                self._functions.forget(forgotten)
                self._admission.forget(forgotten)
            self._admission.offer(
                [WorkerCall(slot, function, FunctionKind(hint), arguments) for slot, function, hint, arguments in calls]
            )

    def _learn(self, functions: list[tuple[int, bytes]], calls: list[tuple[int, int, int, bytes]]) -> None:
        for number, blob in functions:
            slots = [slot for slot, function, *_ in calls if function == number]
            for slot in slots:
                self._started[slot] = Mark.LOADING
            self._functions.learn(number, blob)
            for slot in slots:
                self._started[slot] = Mark.UNTOUCHED

    def _report(self) -> None:
        results: list[tuple[int, bool, bytes]] = []
        size = 0
        while self._outbox:
            results.append(self._outbox.popleft())
            size += len(results[-1][2])
            if size > _REPORT_BYTES:
                self._send_report(results, [])
                results = []
                size = 0
        returned = [call.slot for call in self._admission.hand_back()]
        self._send_report(results, returned)
        if self._stopping and not self._admission.held() and not self._outbox:
            self._all_done = True
            if self._main_waits is not None:
                self._main_waits.unpark()

    def _send_report(self, results: list[tuple[int, bool, bytes]], returned: list[int]) -> None:
        limit = self._admission.announce_limit()
        learned = self._admission.learned()
        if results or returned or learned or limit != self._last_limit:
            try:
                self._channel.send(Kind.REPORT, (limit, results, returned, learned))
            except ChannelClosed:
                raise
            except (OSError, MemoryError) as error:  # too large for a file, no memory
                refused = dump_error(
                    CannotTravel(f"the result could not be sent back from the worker process: {error}")
                )
                results = [(slot, False, refused) for slot, _, _ in results]
                self._channel.send(Kind.REPORT, (limit, results, returned, learned))
            self._last_limit = limit
