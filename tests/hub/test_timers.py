"""Timers: a model of the heap with tombstones, driven by hypothesis."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from rimstone.hub import timers as module
from rimstone.hub.timers import Timers

steps = st.lists(
    st.one_of(
        st.tuples(st.just("park"), st.integers(0, 9), st.integers(0, 20)),
        st.tuples(st.just("wake"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.integers(0, 20)),
    ),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_only_present_parks_are_due_in_the_order_of_their_deadlines(steps):
    module_limit, module._COMPACT_ABOVE = module._COMPACT_ABOVE, 4
    try:
        timers = Timers()
        tasks = [SimpleNamespace(ticket=0, number=number) for number in range(10)]
        due_at = {}
        for step, number, time in steps:
            task = tasks[number]
            if step == "park":
                task.ticket += 1
                due_at.pop(number, None)
                due_at[number] = time
                timers.add(time, task)
            elif step == "wake":
                task.ticket += 1
                due_at.pop(number, None)
            else:
                expected = sorted((at, number) for number, at in due_at.items() if at <= time)
                found = list(timers.pop_due(time))
                for one in found:
                    one.ticket += 1
                assert sorted((due_at[one.number], one.number) for one in found) == expected
                assert [due_at[one.number] for one in found] == [at for at, _ in expected]
                for one in found:
                    del due_at[one.number]
            assert timers.next_deadline() == min(due_at.values(), default=None)
            assert len(timers) >= len(due_at)
    finally:
        module._COMPACT_ABOVE = module_limit


def test_dead_timers_do_not_pile_up():
    timers = Timers()
    task = SimpleNamespace(ticket=0)
    for deadline in range(10_000):
        task.ticket += 1
        timers.add(deadline, task)
    assert len(timers) < 1000
