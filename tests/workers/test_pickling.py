"""Arguments, results and errors as bytes; the errors of classes that misbehave."""

import dataclasses
import pickle
import sqlite3
import threading

import pytest

from rimstone.errors import CannotTravel, RemoteError, RemoteTraceback
from rimstone.workers import pickling
from rimstone.workers.pickling import dump_arguments, dump_error, dump_result, load_arguments, load_error, load_result


@pytest.fixture
def connection():
    opened = sqlite3.connect(":memory:")
    yield opened
    opened.close()


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


class Refuses:
    def __reduce__(self):
        raise ValueError("I stay here")


class RefusesToArrive:
    def __reduce__(self):
        return _explode, ()


def _explode():
    raise SystemExit("exploded")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, "a", b"b", None, 2.5, True, 1j), {"k": [1, {"a": (2, 3)}]}),
        ((list(range(1000)), {i: str(i) for i in range(100)}), {}),
        (([[[[["deep"]]]]], {1, 2}, frozenset("a"), bytearray(b"x"), range(3)), {}),
        ((Point(1), [Point(2)]), {"p": Point(3)}),
        (("__main__",), {}),
        ((len, Point, pickle, ValueError("x").args), {}),
    ],
)
def test_arguments_arrive_as_they_were(args, kwargs):
    assert load_arguments(dump_arguments("work", args, kwargs)) == (args, kwargs)


def test_simple_arguments_are_left_to_plain_pickle(monkeypatch):
    monkeypatch.setattr(pickling, "dumps", None)
    dump_arguments("work", (1, "a", [2, (3,)], {"k": None}), {"x": b"y"})
    with pytest.raises(CannotTravel):
        dump_arguments("work", (Point(1),), {})


def test_functions_and_shared_objects_among_arguments():
    shared = [1]
    (fn, one), kwargs = load_arguments(dump_arguments("work", (lambda x: x + shared[0], shared), {"same": shared}))
    assert fn(1) == 2
    assert one is kwargs["same"]


class TestArgumentsThatDoNotPickle:
    @staticmethod
    def refusal(*args, **kwargs):
        with pytest.raises(CannotTravel) as caught:
            dump_arguments("work", args, kwargs)
        assert caught.value.__cause__ is not None
        return str(caught.value)

    def test_position(self, connection):
        assert self.refusal(1, connection) == (
            "cannot send argument 2 of work() to a worker process: a sqlite3.Connection does not pickle; open it in "
            "the worker instead: inside the function, or once per process with Pool(initializer=...)"
        )

    def test_keyword(self, connection):
        assert "keyword argument 'db' of work() to a worker process: a sqlite3.Connection" in self.refusal(
            db=connection
        )

    def test_inside(self, connection):
        message = self.refusal([Point(connection)])
        assert message.startswith("cannot send argument 1 of work() (a list) to a worker process: in its item 0 (a ")
        assert "Point), the attribute 'x' (a sqlite3.Connection) does not pickle" in message

    def test_own_reason_is_the_cause(self):
        with pytest.raises(CannotTravel) as caught:
            dump_arguments("work", (Refuses(),), {})
        assert str(caught.value.__cause__) == "I stay here"

    def test_lock_in_a_closure(self):
        lock = threading.Lock()
        assert "its closure variable 'lock' (a _thread.lock) does not pickle" in self.refusal(lambda: lock)

    def test_too_deep(self):
        deep = []
        for _ in range(100_000):
            deep = [deep]
        assert "argument 1 of work()" in self.refusal(deep)

    def test_cycle(self, connection):
        cycle = [connection]
        cycle.append(cycle)
        assert "the item" not in self.refusal(cycle)
        assert "its item 0 (a sqlite3.Connection) does not pickle" in self.refusal(cycle)


def test_arguments_that_cannot_be_rebuilt():
    data = pickle.dumps(((1,), {})).replace(b"K\x01", b"K")
    with pytest.raises(CannotTravel, match="the arguments arrived"):
        load_arguments(data)


@pytest.mark.parametrize("value", [None, 1, [Point(1)], {"a": "__main__"}, ValueError, len])
def test_results_arrive_as_they_were(value):
    assert load_result(dump_result(value)) == value


def test_a_local_class_and_a_lambda_as_results():
    class Local:
        def hello(self):
            return "hello"

    made = load_result(dump_result([Local(), lambda: Local]))
    assert type(made[0]) is Local
    assert made[1]() is Local


def test_the_error_names_the_type_of_the_result(connection):
    with pytest.raises(CannotTravel, match=r"a sqlite3.Connection does not pickle; return plain data instead"):
        dump_result(connection)
    with pytest.raises(CannotTravel, match=r"the result of work\(\) \(a dict\) .*key 'db' \(a sqlite3.Connection\)"):
        dump_result({"db": connection}, "work")


def test_a_result_that_cannot_be_rebuilt():
    with pytest.raises(CannotTravel, match="the result arrived but cannot be rebuilt in this process: SystemExit: exp"):
        load_result(dump_result(RefusesToArrive()))


# -- errors ----------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(one)


class WithReduce(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.both = (one, two)

    def __reduce__(self):
        return WithReduce, self.both


class ExitsWhenRebuilt(Exception):
    def __setstate__(self, state):
        raise SystemExit("rebuilt")


class TurnsIntoAnother(Exception):
    def __reduce__(self):
        return ValueError, ("other",)


class Mute(Exception):
    def __str__(self):
        raise KeyboardInterrupt

    __repr__ = __str__


class Unchangeable(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    reason: str


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def travelled(error):
    return load_error(dump_error(raised(error)))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("v", 1),
        KeyError("k"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        WithReduce(1, 2),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(5),
        Unchangeable("u"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_it_was(error):
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert str(arrived) == str(error)
    assert type(arrived.__cause__) is RemoteTraceback
    assert f"{type(error).__name__}" in arrived.__cause__.text


def test_a_group_arrives_with_its_members():
    arrived = travelled(ExceptionGroup("several", [WithReduce(1, 2), ExceptionGroup("inner", [KeyError("k")])]))
    assert [type(each) for each in arrived.exceptions] == [WithReduce, ExceptionGroup]
    assert arrived.exceptions[0].both == (1, 2)


@pytest.mark.parametrize(
    "error",
    [TwoArguments(1, 2), TurnsIntoAnother("x"), ValueError(threading.Lock()), Frozen("cold")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_cannot_be_rebuilt_is_stood_for(error):
    arrived = travelled(error)
    assert type(arrived) is RemoteError
    assert arrived.type_name.endswith(type(error).__name__)
    assert arrived.message == str(error)
    assert "in raised" in arrived.__cause__.text


def test_rebuilding_that_exits_is_stood_for():
    error = ExitsWhenRebuilt("x")
    error.state = 1
    assert type(travelled(error)) is RemoteError


def test_an_error_that_was_fine_in_the_worker_only(monkeypatch):
    data = dump_error(raised(ExitsWhenRebuilt("x")))
    assert type(load_error(data)) is ExitsWhenRebuilt
    monkeypatch.delattr(f"{__name__}.ExitsWhenRebuilt")
    arrived = load_error(data)
    assert (type(arrived), arrived.message) == (RemoteError, "x")


def test_an_error_that_cannot_be_described():
    arrived = travelled(Mute(threading.Lock()))
    assert arrived.message == "<its __str__ raised KeyboardInterrupt>"
    assert "Mute" in arrived.__cause__.text


def test_notes_arrive_once():
    for error in (WithReduce(1, 2), ValueError("v"), TwoArguments(1, 2)):
        error.add_note("while reading line 3")
        assert travelled(error).__notes__ == ["while reading line 3"]


def test_the_chain_is_visible_in_the_text():
    error = raised(ValueError("second"), raised(KeyError("first")))
    text = load_error(dump_error(error)).__cause__.text
    assert "KeyError: 'first'" in text
    assert "The above exception was the direct cause of the following exception" in text
    assert text.endswith("ValueError: second\n")


def test_frames_of_rimstone_are_left_out_at_the_top():
    # As in a worker: a frame of ours calls the user's.
    call = compile("def call(fn):\n    fn()\n", pickling.__file__, "exec")
    names = {}
    exec(call, names)

    def work():
        raise ValueError("here")

    try:
        names["call"](work)
    except ValueError as error:
        whole = error
    whole.__traceback__ = whole.__traceback__.tb_next  # the frame of this test
    text = load_error(dump_error(whole)).__cause__.text
    assert "in work" in text
    assert "in call" not in text
