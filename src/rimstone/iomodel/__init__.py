"""IO models: interchangeable ways for a hub to wait. `choose` picks one. Read `base.py` first.

To add one: write a file with a subclass of `IOModel` beside `epoll.py`, add it to `_MODELS` below in order of
preference, and give it a test file of three lines that runs the shared contract (see `tests/iomodel`).
"""

import os

from rimstone.errors import IOModelUnavailable
from rimstone.iomodel.base import IOModel
from rimstone.iomodel.epoll import EpollModel
from rimstone.iomodel.select import SelectModel

__all__ = ["IOModel", "available", "choose"]

_MODELS: tuple[type[IOModel], ...] = (EpollModel, SelectModel)  # best first


def available() -> dict[str, str | None]:
    """Every IO model by name: None if it works here, else why not. Best first."""
    return {model.name: model.why_unavailable() for model in _MODELS}


def choose(name: str | None = None) -> type[IOModel]:
    """The IO model to use: *name*, else the environment's RIMSTONE_IO_MODEL, else the best that works here.

    Raises:
        IOModelUnavailable: there is no such model, or it does not work here.
    """
    asked = name or os.environ.get("RIMSTONE_IO_MODEL") or None
    if asked is None:
        return next(model for model in _MODELS if model.why_unavailable() is None)
    source = f"{name!r}" if name else f"RIMSTONE_IO_MODEL={asked!r}"
    working = ", ".join(n for n, reason in available().items() if reason is None)
    for model in _MODELS:
        if model.name == asked:
            reason = model.why_unavailable()
            if reason is None:
                return model
            raise IOModelUnavailable(f"{source} cannot be used: {reason}; use one of {working}")
    raise IOModelUnavailable(f"{source} is not an IO model; use one of {working} (see 'rimstone doctor')")
