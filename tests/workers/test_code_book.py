"""CodeBook: what is encoded again and when, what is kept and for how long, what the errors say."""

import dis
import functools
import gc
import json
import math
import pickle
import sqlite3
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from rimstone.errors import CannotTravel
from rimstone.workers import code
from rimstone.workers.code import CodeBook
from rimstone.workers.namespace import FunctionTable


def module_function(x):
    return x + 1


class Service:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def run(self):
        return "ran"

    @classmethod
    def create(cls):
        return cls

    @staticmethod
    def static():
        return "static"


def defined(source, **names):
    """The function `work` of a program that no worker can import, with these globals."""
    exec(source, names)
    return names["work"]


def decoded(encoded):
    table = FunctionTable()
    table.learn(encoded.id, encoded.blob)
    return table.get(encoded.id)


@pytest.mark.parametrize(
    "fn",
    [
        module_function,
        Service,
        Service.static,
        Service.create,
        Service.run,
        len,
        math.sqrt,
        json.dumps,
        dict,
        str.upper,
    ],
    ids=lambda fn: fn.__qualname__,
)
def test_what_can_be_imported_goes_by_name(fn):
    book = CodeBook()
    encoded = book.encode(fn)
    assert decoded(encoded) == fn
    assert book.encode(fn) is encoded
    assert len(encoded.blob) < 200


@pytest.mark.parametrize("fn", [functools.partial(module_function, 1), "abc".upper, dict.fromkeys], ids=str)
def test_other_callables_of_importable_parts_travel(fn):
    book = CodeBook()
    encoded = book.encode(fn)
    assert decoded(encoded)(*([] if not isinstance(fn, types.BuiltinMethodType) or fn.__name__ == "upper" else ["a"]))
    assert book.encode(fn) is encoded


def test_the_bound_method_of_a_class_is_one_function():
    book = CodeBook()
    assert book.encode(Service.create) is book.encode(Service.create)


def test_names_for_messages():
    book = CodeBook()
    assert book.encode(Service().run).name == "Service.run"
    assert book.encode(functools.partial(module_function, 1)).name == "module_function"
    assert book.encode(lambda: 0).name == "test_names_for_messages.<locals>.<lambda>"


@pytest.mark.parametrize(
    "change",
    [
        lambda fn: fn.__globals__.update(number=2),
        lambda fn: fn.__globals__.update(missing=2),
        lambda fn: fn.__globals__.pop("number"),
        lambda fn: fn.__globals__.update(inner=lambda: 0),
        lambda fn: fn.__globals__.update(number=None),
        lambda fn: fn.__globals__["inner"].__globals__.update(deep=5),
        lambda fn: setattr(fn, "__code__", (lambda: 3).__code__),
        lambda fn: setattr(fn, "__defaults__", (4,)),
        lambda fn: setattr(fn, "__kwdefaults__", {"k": 4}),
    ],
    ids=[
        "global",
        "new global",
        "deleted global",
        "function",
        "None",
        "global of inner",
        "code",
        "defaults",
        "keywords",
    ],
)
def test_a_function_is_encoded_again_after(change):
    inner = defined("def work(): return deep", deep=1)
    fn = defined("def work(a=1, *, k=2): return number, inner(), missing", number=Service(), inner=inner)
    book = CodeBook()
    before = book.encode(fn)
    assert book.encode(fn) is before
    change(fn)
    after = book.encode(fn)
    assert after.id != before.id
    assert after.blob != before.blob
    assert book.encode(fn) is after


def test_a_function_is_encoded_again_after_its_closure_variable_is_rebound():
    value = 1

    def work():
        return value, empty

    book = CodeBook()
    first = book.encode(work)
    value = 2
    second = book.encode(work)
    empty = 3
    third = book.encode(work)
    assert len({first.id, second.id, third.id}) == 3
    assert decoded(third)() == (2, 3)


def test_an_object_is_sent_again_when_its_state_has_changed():
    service = Service(level=1)
    book = CodeBook()
    before = book.encode(service.run)
    assert book.encode(service.run) is before
    service.level = 2
    assert decoded(book.encode(service.run)).__self__.level == 2
    assert book.encode(Service(level=2).run) is not book.encode(Service(level=2).run)


def test_ids_are_forgotten_when_function_and_calls_are_gone():
    book = CodeBook()
    fn = defined("def work(): return work")
    encoded = book.encode(fn)
    number = encoded.id
    del fn
    gc.collect()
    assert book.take_forgotten() == [], "a call in flight holds it"
    del encoded
    assert book.take_forgotten() == [number]
    assert book.take_forgotten() == []


def test_functions_submitted_in_a_loop_leave_nothing_behind():
    book = CodeBook()
    forgotten = []

    def recursive(i):
        def work(n):
            return work(n - 1) if n else i

        return work

    for i in range(3000):
        book.encode(recursive(i))
        if i % 100 == 0:
            gc.collect()
            forgotten += book.take_forgotten()
    assert len(book._entries) <= code.MOST_ENTRIES
    assert len(book._references) <= code.MOST_ENTRIES
    assert len(forgotten) >= 3000 - code.MOST_ENTRIES


def test_entries_that_cannot_be_weak_are_bounded():
    book = CodeBook()
    kept = [types.MethodType(lambda self: self, (i,)) for i in range(code.MOST_ENTRIES + 50)]
    for method in kept:
        book.encode(method)
    assert len(book._entries) == code.MOST_ENTRIES


def test_threads_get_the_same_encoding():
    book = CodeBook()
    fn = defined("def work(): return 1")
    start = threading.Barrier(8)
    seen = []

    def encode():
        start.wait()
        seen.append(book.encode(fn))

    threads = [threading.Thread(target=encode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


@functools.cache
def instructions(function_code):
    return {each.offset: each.opname for each in dis.get_instructions(function_code)}


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th place in code.py where the interpreter would run a signal handler.

    Those are the places after a call, after a jump backwards and at the start of a function; in particular not
    between entering a `with` block and its first instruction.
    """

    def __init__(self, n):
        self.left = n
        self.last = {}

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != code.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self.last.get(frame, "")
            self.last[frame] = instructions(frame.f_code)[frame.f_lasti]
            if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self

    def __enter__(self):
        sys._getframe().f_trace_opcodes = True  # 3.12 looks for it when tracing starts
        sys.settrace(self)

    def __exit__(self, *exc_info):
        sys.settrace(None)
        self.last.clear()


def test_an_interrupt_at_any_bytecode_leaves_the_book_usable():
    book = CodeBook()
    fn = defined("def work(): return helper()", helper=None)
    for interrupted in range(10_000):
        fn.__globals__["helper"] = lambda: 1  # must be encoded anew, and the last encoding forgotten
        try:
            with InterruptAt(interrupted + 1):
                book.encode(fn)
                book.take_forgotten()
        except KeyboardInterrupt:
            pass
        else:
            break
        with ThreadPoolExecutor(1) as other_thread:
            encoded = other_thread.submit(book.encode, fn).result(timeout=20)
        assert decoded(encoded)() == 1
        assert book.encode(fn) is encoded
    assert interrupted > 50
    del encoded, fn
    gc.collect()
    book.take_forgotten()
    assert not book._entries
    assert not book._references


@pytest.fixture
def connection():
    opened = sqlite3.connect(":memory:")
    yield opened
    opened.close()


HINT = "open it in the worker instead: inside the function, or once per process with Pool(initializer=...)"


def refusal(fn):
    with pytest.raises(CannotTravel) as caught:
        CodeBook().encode(fn)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_the_error_names_a_global(connection):
    message = refusal(defined("def work(): return DB", DB=connection))
    assert message == (
        f"cannot send work() to a worker process: its global 'DB' (a sqlite3.Connection) does not pickle; {HINT}"
    )


def test_the_error_names_a_global_of_a_function_it_calls(connection):
    helper = defined("def work(): return DB", DB=connection)
    message = refusal(defined("def work(): return helper()", helper=helper))
    assert "in its global 'helper' (a function), the global 'DB' (a sqlite3.Connection) does not pickle" in message


def test_the_error_names_a_closure_variable(connection):
    def work():
        return connection

    assert "its closure variable 'connection' (a sqlite3.Connection) does not pickle; open it" in refusal(work)


def test_the_error_names_a_default(connection):
    message = refusal(defined("def work(a, db=DB): return db", DB=connection))
    assert "default of parameter 'db' (a sqlite3.Connection) does not pickle" in message


def test_the_error_names_an_attribute(connection):
    message = refusal(Service(parts={"db": [connection]}).run)
    assert message.startswith("cannot send Service.run() to a worker process: in its ")
    assert "attribute 'parts' (a dict)" in message
    assert "value under key 'db' (a list)" in message
    assert "the item 0 (a sqlite3.Connection) does not pickle" in message


def test_the_error_names_what_a_partial_binds(connection):
    message = refusal(functools.partial(module_function, x=connection))
    assert "its bound argument 'x' (a sqlite3.Connection) does not pickle" in message


def test_the_error_names_the_function_itself():
    class Odd:
        def __call__(self):
            pass

        def __reduce__(self):
            raise ValueError("not me")

    assert "cannot send test_the_error_names_the_function_itself.<locals>.Odd() to a worker" in refusal(Odd())


def test_an_unknown_blob_never_raises_in_learn():
    table = FunctionTable()
    table.learn(1, b"no pickle")
    with pytest.raises(pickle.UnpicklingError):
        table.get(1)
    table.forget([1, 2])
    with pytest.raises(RuntimeError, match="function 1"):
        table.get(1)
