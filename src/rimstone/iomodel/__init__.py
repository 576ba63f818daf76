"""IO models: interchangeable ways for a hub to wait. `choose` picks one. Read `base.py` first.

To add one: docs/guides/add-an-io-model.md, or ARCHITECTURE.md for the five steps alone.
"""

import os

from rimstone.errors import IOModelUnavailable
from rimstone.iomodel.base import IOModel
from rimstone.iomodel.completion_threads import CompletionThreadsModel
from rimstone.iomodel.epoll import EpollModel
from rimstone.iomodel.kqueue import KqueueModel
from rimstone.iomodel.nonblocking import NonblockingModel
from rimstone.iomodel.poll import PollModel
from rimstone.iomodel.select import SelectModel
from rimstone.iomodel.uring import UringModel

__all__ = ["IOModel", "available", "choose"]

# The first that works is the default. epoll is, until uring wins every row of `rimstone bench io-models`.
_MODELS: tuple[type[IOModel], ...] = (
    EpollModel,
    UringModel,
    KqueueModel,
    PollModel,
    SelectModel,
    NonblockingModel,
    CompletionThreadsModel,
)


def available() -> dict[str, str | None]:
    """Every IO model by name: None if it works here, else why not. The default comes first."""
    return {model.name: model.why_unavailable() for model in _MODELS}


def choose(asked: str | type[IOModel] | None = None) -> type[IOModel]:
    """The IO model to use: *asked*, else the environment's RIMSTONE_IO_MODEL, else the first that works here.

    Args:
        asked: A name, or a class, which need not be one of ours; None and "" leave the choice to others.
    Raises:
        IOModelUnavailable: there is no such model, or it does not work here.
    """
    if asked is not None and not isinstance(asked, str):
        if not (isinstance(asked, type) and issubclass(asked, IOModel)):
            raise IOModelUnavailable(f"{asked!r} is not an IO model; use {_choice()}, or a subclass of IOModel")
        return _checked(asked, asked.__qualname__)
    name = asked or os.environ.get("RIMSTONE_IO_MODEL")
    if not name:
        return next(model for model in _MODELS if model.why_unavailable() is None)
    source = repr(asked) if asked else f"RIMSTONE_IO_MODEL={name!r}"
    for model in _MODELS:
        if model.name == name:
            return _checked(model, source)
    raise IOModelUnavailable(f"{source} is not an IO model; use {_choice()}")


def _checked(model: type[IOModel], source: str) -> type[IOModel]:
    reason = model.why_unavailable()
    if reason is None:
        return model
    raise IOModelUnavailable(f"{source} cannot be used: {reason}; use {_choice(besides=model)}")


def _choice(besides: type[IOModel] | None = None) -> str:
    """What works here, and of the rest why it does not; *besides*: that one is known already."""
    models = available()
    working = ", ".join(name for name, reason in models.items() if reason is None)
    missing = "".join(
        f"{model.name} is not available here: {reason}; "
        for model in _MODELS
        if model is not besides and (reason := models[model.name]) is not None
    )
    return f"one of {working} ({missing}see 'rimstone doctor')"
