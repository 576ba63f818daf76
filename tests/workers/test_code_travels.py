"""Functions, classes and globals of a real `__main__` in a real worker process.

Each test is a small program, run in the way named by the test, which starts one worker: `TinyWorker`, a loop over two
pipes that learns functions and answers calls one by one.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rimstone

TINY_POOL = '''
import pickle, struct, subprocess, sys

from rimstone.workers.code import CodeBook
from rimstone.workers.namespace import FunctionTable, install_main
from rimstone.workers.pickling import *


def _write(file, message):
    data = pickle.dumps(message)
    file.write(struct.pack("<I", len(data)) + data)
    file.flush()


def _read(file):
    head = file.read(4)
    return pickle.loads(file.read(struct.unpack("<I", head)[0])) if head else None


def serve():
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    argv, script, sys.path[:] = _read(source)
    install_main(argv, script)
    table = FunctionTable()
    while (message := _read(source)) is not None:
        forgotten, number, blob, arguments = message
        table.forget(forgotten)
        if blob is not None:
            table.learn(number, blob)
        try:
            args, kwargs = load_arguments(arguments)
            answer = True, dump_result(table.get(number)(*args, **kwargs))
        except BaseException as error:
            answer = False, dump_error(error)
        _write(sink, (len(table), *answer))


class TinyWorker:
    """One worker; `call` sends a function when the worker does not have it."""

    def __init__(self):
        self.book = CodeBook()
        self.known = set()
        self.sent = 0
        self.in_table = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tiny_pool import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        script = getattr(sys.modules["__main__"], "__file__", None)
        _write(self.process.stdin, (sys.argv, script, sys.path))

    def call(self, fn, *args, **kwargs):
        encoded = self.book.encode(fn)
        arguments = dump_arguments(encoded.name, args, kwargs)
        forgotten = self.book.take_forgotten()
        self.known -= set(forgotten)
        blob = None
        if encoded.id not in self.known:
            self.known.add(encoded.id)
            self.sent += 1
            blob = encoded.blob
        _write(self.process.stdin, (forgotten, encoded.id, blob, arguments))
        self.in_table, returned, data = _read(self.process.stdout)
        if returned:
            return load_result(data)
        raise load_error(data)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tiny_pool.py").write_text(TINY_POOL)
    return tmp_path


def run(folder: Path, program: str, how: str = "script", name: str = "program.py") -> str:
    """Run a program; its output. `how`: as a script file, with -c, or typed line by line into the REPL."""
    program = textwrap.dedent(program)
    source = str(Path(rimstone.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "lib"), source])}
    typed = None
    if how == "script":
        (folder / name).write_text(program)
        command = [sys.executable, str(folder / name)]
    elif how == "-c":
        command = [sys.executable, "-c", program]
    else:
        command = [sys.executable, "-i", "-q"]
        typed = program
    done = subprocess.run(
        command, input=typed, capture_output=True, text=True, env=environment, cwd=folder, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("how", ["script", "-c", "repl"])
def test_main_code_travels_without_a_guard(folder, how):
    program = """
        from tiny_pool import TinyWorker
        import os, math as m
        from functools import lru_cache, partial
        OFFSET = 10
        def add(x): return helper(x) + OFFSET

        def helper(x): return m.floor(x) * 2

        def adder(n): return lambda x: x + n

        @lru_cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

        def counter():
            n = 0
            def up():
                nonlocal n
                n += 1
            def read(): return n
            return up, read

        def both():
            up()
            up()
            return read()

        up, read = counter()
        def where(): return os.getpid(), __name__, where.__globals__ is __import__("sys").modules["__main__"].__dict__

        class Twice:
            def __init__(self, by): self.by = by
            def __call__(self, x): return self.times(x) * 2
            def times(self, x): return x * self.by + OFFSET
            @staticmethod
            def static(x): return x + OFFSET
            @classmethod
            def named(cls, x): return cls.__name__ + str(x)

        with TinyWorker() as worker:
            assert worker.call(add, 3.5) == 16
            assert worker.call(adder(5), 1) == 6
            assert worker.call(lambda x: add(x) + 1, 1) == 13
            assert worker.call(fib, 50) == 12586269025
            assert worker.call(both) == 2, "closures share their variable"
            pid, name, in_main = worker.call(where)
            assert pid == worker.process.pid and name == "__main__" and in_main
            assert worker.call(Twice(3).times, 2) == 16
            assert worker.call(Twice(3), 2) == 32
            assert worker.call(Twice.static, 2) == 12
            assert worker.call(Twice.named, 2) == "Twice2"
            assert worker.call(partial(add, x=1)) == 12
            assert worker.call(adder(1), 1) == 2

        print("done")
    """
    assert "done" in run(folder, program, how)


def test_a_global_set_in_the_worker_stays(folder):
    program = """
        import sqlite3
        from tiny_pool import TinyWorker
        connection = None
        calls = 0
        class Config:
            level = None
        def initialize():
            global connection
            connection = sqlite3.connect(":memory:")
            Config.level = 3
        def count():
            global calls
            calls += 1
            return calls, connection is not None
        def ask(config=Config):
            return calls, connection.execute("select 7").fetchone()[0], config.level
        def level_of(config): return config.level, Config.level
        with TinyWorker() as worker:
            worker.call(initialize)
            assert worker.call(count) == (1, True)
            assert worker.call(count) == (2, True)
            assert worker.call(ask) == (2, 7, 3)
            assert worker.call(lambda: (calls, connection is None)) == (2, False)
            assert worker.call(level_of, Config()) == (3, 3)
        assert connection is None and calls == 0 and Config.level is None
        print("done")
    """
    assert "done" in run(folder, program)


@pytest.mark.parametrize("how", ["repl", "-c"])
def test_redefining_and_rebinding_reach_the_worker(folder, how):
    program = """
        from tiny_pool import TinyWorker
        worker = TinyWorker()
        factor = 2
        def scale(x): return x * factor

        def outer(x): return scale(x) + 1

        class Shape:
            side = 1
            def area(self): return self.side ** 2

        def area(shape=None): return (shape or Shape()).area()

        assert worker.call(outer, 3) == 7
        assert worker.call(scale, 3) == 6
        sent = worker.sent
        assert worker.call(scale, 3) == 6 and worker.sent == sent
        factor = 5
        assert worker.call(scale, 3) == 15 and worker.sent == sent + 1
        assert worker.call(outer, 3) == 16
        def scale(x): return x * 100

        assert worker.call(outer, 3) == 301, "reached by name"
        assert worker.call(scale, 3) == 300
        factor = 6
        assert worker.call(scale, 1) == 100
        assert worker.call(area) == 1
        Shape.side = 4
        assert worker.call(area, Shape()) == 16
        class Shape:
            def area(self): return 1000

        assert worker.call(area) == 1000
        def later(): return not_yet()

        try: worker.call(later)
        except NameError as error: assert "not_yet" in str(error)
        else: assert False

        def not_yet(): return "now"

        assert worker.call(later) == "now"
        scale.__code__ = (lambda x: -x).__code__
        assert worker.call(scale, 1) == -1
        scale.__defaults__ = (8,)
        assert worker.call(scale) == -8
        worker.__exit__()
        print("done")
    """
    assert "done" in run(folder, program, how)


def test_classes_of_main_are_arguments_and_results(folder):
    program = """
        import abc, collections, dataclasses, enum, typing
        from tiny_pool import TinyWorker
        SCALE = 2
        class Point:
            made = 0
            def __init__(self, x): self.x = x
            def scaled(self): return Point(self.x * SCALE)
            def __reduce__(self): return (rebuild, (self.x,))
        def rebuild(x): return Point(check(x))
        def check(x):
            assert isinstance(x, int)
            return x
        class Base(abc.ABC):
            @abc.abstractmethod
            def f(self): ...
        class Child(Base):
            def f(self): return super().__hash__() and [type(self), Base]
        class Color(enum.Enum):
            RED = 1
            GREEN = 2
            def next(self): return Color.GREEN
        class Flag(enum.IntFlag):
            A = 1
            B = 2
        @dataclasses.dataclass(frozen=True, slots=True)
        class Row:
            name: str
            tags: list = dataclasses.field(default_factory=list)
        Pair = collections.namedtuple("Pair", "a b")
        class Typed(typing.NamedTuple):
            a: int
            b: str = "b"
        T = typing.TypeVar("T")
        class Box(typing.Generic[T]):
            def __init__(self, item): self.item = item
        def scaled(point):
            assert isinstance(point, Point) and type(point) is Point, "one class in the worker"
            return point.scaled(), Point
        def same(value): return value
        def child(value):
            assert isinstance(value, Base) and type(value) is Child
            return value.f()
        area = Point.scaled
        with TinyWorker() as worker:
            for round in range(2):
                result, cls = worker.call(scaled, Point(4))
                assert type(result) is Point and cls is Point and isinstance(result, Point) and result.x == 8
                assert worker.call(same, Color.RED) is Color.RED
                assert worker.call(Color.RED.next) is Color.GREEN
                assert worker.call(same, Flag.A | Flag.B) is Flag.A | Flag.B
                row = worker.call(Row, "x", tags=[1])
                assert type(row) is Row and row == Row("x", [1])
                assert worker.call(same, row) == row
                assert type(worker.call(same, Pair(1, 2))) is Pair
                assert type(worker.call(same, Typed(1))) is Typed
                assert type(worker.call(same, Box([1]))) is Box
                assert worker.call(child, Child()) == [Child, Base]
                assert worker.call(lambda: {"k": [Point(1), Color.RED]})["k"][1] is Color.RED
                assert worker.call(same, Point) is Point
                assert Point.scaled is area, "the parent's class is left alone"
            def local():
                class Made:
                    def hello(self): return "hello"
                return Made()
            assert worker.call(local).hello() == "hello"
            assert worker.call(same, worker.call(local)).hello() == "hello"
            assert worker.call(same, rebuild) is not None
            returned = worker.call(lambda: lambda n: n * SCALE)
            assert returned(21) == 42
            SCALE = 3
            assert returned(21) == 63, "a function that comes back lives in the parent's __main__"
        print("done")
    """
    assert "done" in run(folder, program)


def test_a_class_comes_back_although_the_worker_gave_it_something_that_does_not_pickle(folder):
    program = """
        import threading
        from tiny_pool import TinyWorker
        class Job:
            lock = None
            def run(self):
                with Job.lock: return self
        def initialize(): Job.lock = threading.Lock()
        with TinyWorker() as worker:
            worker.call(initialize)
            job = worker.call(Job().run)
            assert type(job) is Job and Job.lock is None
        print("done")
    """
    assert "done" in run(folder, program)


def test_pickling_by_name_works_inside_the_worker(folder):
    program = """
        import copy, pickle
        from tiny_pool import TinyWorker
        class Point:
            x = 1
        def copied(point): return pickle.loads(pickle.dumps(point)).x, copy.deepcopy(point).x
        with TinyWorker() as worker:
            assert worker.call(copied, Point()) == (1, 1)
        print("done")
    """
    assert "done" in run(folder, program)


def test_exceptions_of_main_are_caught_by_their_class(folder):
    program = """
        from tiny_pool import TinyWorker
        from rimstone.errors import RemoteTraceback, RemoteError
        PREFIX = "code "
        class MyError(Exception):
            def __init__(self, code):
                super().__init__(PREFIX + str(code))
                self.code = code
            def __reduce__(self): return MyError, (self.code,)
        class Broken(Exception):
            def __init__(self, a, b): super().__init__(a)
        def fail(n):
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise MyError(n) from error
        def group(): raise ExceptionGroup("several", [MyError(1), ValueError(2)])
        def broken(): raise Broken(1, 2)
        def leave(): raise SystemExit(3)
        with TinyWorker() as worker:
            for n in range(2):
                try:
                    worker.call(fail, n)
                except MyError as error:
                    assert error.code == n and str(error) == f"code {n}"
                    text = str(error.__cause__)
                    assert type(error.__cause__) is RemoteTraceback
                    assert "ZeroDivisionError" in text and "in fail" in text and "tiny_pool" in text
            try:
                worker.call(group)
            except* MyError as caught:
                assert caught.exceptions[0].code == 1
            except* ValueError:
                pass
            try:
                worker.call(broken)
            except RemoteError as error:
                assert error.type_name == "Broken" and error.message == "1"
            try:
                worker.call(leave)
            except SystemExit as error:
                assert error.code == 3
        print("done")
    """
    assert "done" in run(folder, program)


def test_lambdas_of_a_module_live_in_that_module(folder):
    (folder / "lib" / "tools.py").write_text(
        textwrap.dedent("""
        SETTING = 0
        def configure(value):
            global SETTING
            SETTING = value
        read = lambda: SETTING
        def reader(extra):
            def inner():
                class Local:
                    got = SETTING
                return Local.got, extra
            return inner
        """)
    )
    program = """
        import tools
        from tiny_pool import TinyWorker
        with TinyWorker() as worker:
            worker.call(tools.configure, 9)
            assert worker.call(tools.read) == 9
            assert worker.call(tools.reader("e")) == (9, "e")
            assert worker.call(lambda: tools.SETTING) == 9
        assert tools.SETTING == 0
        print("done")
    """
    assert "done" in run(folder, program)


def test_a_file_loaded_under_a_made_up_name_is_loaded_in_the_worker(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "job.py").write_text(
        textwrap.dedent("""
        loaded = []
        class Item:
            def __init__(self, n): self.n = n
        def work(item): return Item(item.n + 1), __name__
        def late(): return (lambda: len(loaded))
        loaded.append(1)
        """)
    )
    (folder / "lib" / "taken.py").write_text("work = None\n")
    program = """
        import importlib.util, sys
        from tiny_pool import TinyWorker
        def load(name):
            spec = importlib.util.spec_from_file_location(name, "elsewhere/job.py")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        with TinyWorker() as worker:
            for name in ("_made_up", "taken"):
                job = load(name)
                def via_main(item): return job.work(item)
                item, seen = worker.call(job.work, job.Item(1))
                assert type(item) is job.Item and item.n == 2 and seen == name
                assert worker.call(via_main, job.Item(5))[0].n == 6
                assert worker.call(job.late()) == 1, "loaded once"
        print("done")
    """
    assert "done" in run(folder, program)


def test_a_module_made_at_run_time_goes_by_value(folder):
    program = """
        import sys, types
        from tiny_pool import TinyWorker
        made = sys.modules["made"] = types.ModuleType("made")
        exec("BASE = 4\\ndef work(x): return inner(x) + BASE\\ndef inner(x): return x * 2", made.__dict__)
        with TinyWorker() as worker:
            assert worker.call(made.work, 3) == 10
            made.BASE = 5
            assert worker.call(made.work, 3) == 11
        print("done")
    """
    assert "done" in run(folder, program)


def test_what_the_worker_cannot_import_fails_each_call_clearly(folder):
    (folder / "extra").mkdir()
    (folder / "extra" / "hidden.py").write_text("def work(): return 1\n")
    (folder / "lib" / "angry.py").write_text("def work(): return 1\n")
    program = """
        import sys, pathlib
        from tiny_pool import TinyWorker
        import angry, math
        with TinyWorker() as worker:
            assert worker.call(math.sqrt, 4) == 2
            sys.path.append("extra")
            import hidden
            for _ in range(2):
                try: worker.call(hidden.work)
                except ModuleNotFoundError as error:
                    assert "'hidden'" in str(error) and "sys.path" in str(error), error
                else: raise SystemExit("no error")
            exec("def added(): pass", angry.__dict__)
            try: worker.call(angry.added)
            except AttributeError as error: assert "'angry'" in str(error) and "'added'" in str(error)
            else: raise SystemExit("no error")
            pathlib.Path("lib/quits.py").write_text("def work(): pass\\n")
            import quits
            pathlib.Path("lib/quits.py").write_text("raise SystemExit(9)  # it has changed meanwhile\\n")
            for _ in range(2):
                try: worker.call(quits.work)
                except ImportError as error: assert "SystemExit: 9" in str(error)
                else: raise SystemExit("no error")
            assert worker.call(math.sqrt, 9) == 3, "the worker lives on"
        print("done")
    """
    assert "done" in run(folder, program)


def test_functions_that_die_are_dropped_in_the_worker(folder):
    program = """
        from tiny_pool import TinyWorker
        with TinyWorker() as worker:
            for i in range(300):
                assert worker.call(lambda n=i: n) == i
            assert worker.in_table <= 3, worker.in_table
            assert worker.sent == 300
        print("done")
    """
    assert "done" in run(folder, program)
