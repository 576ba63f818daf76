"""Which IO model is chosen, and what is said when it cannot be."""

import pytest

from rimstone import iomodel
from rimstone.errors import IOModelUnavailable
from rimstone.iomodel.epoll import EpollModel
from rimstone.iomodel.select import SelectModel


def test_best_first(monkeypatch):
    monkeypatch.delenv("RIMSTONE_IO_MODEL", raising=False)
    assert list(iomodel.available()) == ["epoll", "select"]
    best = next(name for name, reason in iomodel.available().items() if reason is None)
    assert iomodel.choose().name == best


def test_environment_decides(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "select")
    assert iomodel.choose() is SelectModel


def test_argument_beats_environment(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "nonsense")
    assert iomodel.choose("select") is SelectModel


def test_empty_environment_counts_as_none(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "")
    assert iomodel.choose() in (EpollModel, SelectModel)


def test_unknown_model(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "epol")
    with pytest.raises(IOModelUnavailable, match=r"RIMSTONE_IO_MODEL='epol' is not an IO model; use one of .*select"):
        iomodel.choose()


def test_model_that_does_not_work_here(monkeypatch):
    class NoEpoll(EpollModel):
        @classmethod
        def why_unavailable(cls):
            return "this system has no epoll"

    monkeypatch.setattr(iomodel, "_MODELS", (NoEpoll, SelectModel))
    assert iomodel.choose() is SelectModel
    with pytest.raises(IOModelUnavailable, match="'epoll' cannot be used: this system has no epoll; use one of select"):
        iomodel.choose("epoll")
