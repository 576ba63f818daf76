"""The poll model keeps the contract of every IO model."""

import pytest

from rimstone.iomodel.poll import PollModel
from rimstone.testing.iomodel_contract import IOModelContract


@pytest.mark.skipif(PollModel.why_unavailable() is not None, reason=str(PollModel.why_unavailable()))
class TestPollModel(IOModelContract):
    model = PollModel
