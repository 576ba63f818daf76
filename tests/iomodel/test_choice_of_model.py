"""Which IO model is chosen, and what is said when it cannot be."""

import sys

import pytest

from rimstone import iomodel
from rimstone.errors import IOModelUnavailable
from rimstone.hub.scheduler import Hub
from rimstone.iomodel.epoll import EpollModel
from rimstone.iomodel.poll import PollModel
from rimstone.iomodel.select import SelectModel


class NoEpoll(EpollModel):
    @classmethod
    def why_unavailable(cls):
        return "this system has no epoll"


@pytest.fixture
def two_models(monkeypatch):
    """There are but two models, of which the first does not work."""
    monkeypatch.setattr(iomodel, "_MODELS", (NoEpoll, SelectModel))


def test_best_first(monkeypatch):
    monkeypatch.delenv("RIMSTONE_IO_MODEL", raising=False)
    names = list(iomodel.available())
    ours = ["epoll", "uring", "kqueue", "poll", "select", "nonblocking", "completion_threads"]
    assert [name for name in names if name in ours] == ours
    best = next(name for name, reason in iomodel.available().items() if reason is None)
    assert iomodel.choose().name == best
    if sys.platform == "linux":
        assert best == "epoll"
        assert iomodel.available()["kqueue"].startswith("this system has no kqueue")


def test_environment_decides(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "select")
    assert iomodel.choose() is SelectModel


def test_argument_beats_environment(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "nonsense")
    assert iomodel.choose("select") is SelectModel
    assert iomodel.choose(SelectModel) is SelectModel


def test_empty_environment_counts_as_none(monkeypatch):
    monkeypatch.delenv("RIMSTONE_IO_MODEL", raising=False)
    default = iomodel.choose()
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "")
    assert iomodel.choose() is iomodel.choose("") is default


def test_class_of_another_library():
    class Foreign(SelectModel):
        name = "foreign"

    assert iomodel.choose(Foreign) is Foreign


@pytest.mark.parametrize("asked", ["poll", PollModel])
@pytest.mark.skipif(PollModel.why_unavailable() is not None, reason=str(PollModel.why_unavailable()))
def test_hub_takes_a_name_or_a_class(asked):
    hub = Hub(asked)
    assert type(hub.io) is PollModel
    hub.close()


def test_unknown_model(monkeypatch, two_models):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "epol")
    with pytest.raises(IOModelUnavailable) as caught:
        iomodel.choose()
    assert str(caught.value) == (
        "RIMSTONE_IO_MODEL='epol' is not an IO model; use one of select "
        "(epoll is not available here: this system has no epoll; see 'rimstone doctor')"
    )
    with pytest.raises(IOModelUnavailable, match=r"^'epol' is not an IO model; use one of select \("):
        Hub("epol")


@pytest.mark.parametrize("asked", [3, object, SelectModel.poll])
def test_what_is_no_model_at_all(asked):
    with pytest.raises(
        IOModelUnavailable, match=r"is not an IO model; use one of .*select.*, or a subclass of IOModel"
    ):
        iomodel.choose(asked)


def test_model_that_does_not_work_here(two_models):
    assert iomodel.choose() is SelectModel
    for asked, shown in (("epoll", "'epoll'"), (NoEpoll, "NoEpoll")):
        with pytest.raises(IOModelUnavailable) as caught:
            iomodel.choose(asked)
        assert str(caught.value) == (
            f"{shown} cannot be used: this system has no epoll; use one of select (see 'rimstone doctor')"
        )


@pytest.fixture(autouse=True)
def no_wish(monkeypatch):
    monkeypatch.delenv("RIMSTONE_IO_MODEL", raising=False)
