"""The epoll model keeps the contract of every IO model."""

import pytest

from rimstone.iomodel.epoll import EpollModel
from rimstone.testing.iomodel_contract import IOModelContract


@pytest.mark.skipif(EpollModel.why_unavailable() is not None, reason=str(EpollModel.why_unavailable()))
class TestEpollModel(IOModelContract):
    model = EpollModel
