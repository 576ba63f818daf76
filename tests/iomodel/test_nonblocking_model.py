"""The nonblocking model keeps the contract of every IO model."""

import pytest

from rimstone.iomodel.nonblocking import NonblockingModel
from rimstone.testing.iomodel_contract import IOModelContract


@pytest.mark.skipif(NonblockingModel.why_unavailable() is not None, reason=str(NonblockingModel.why_unavailable()))
class TestNonblockingModel(IOModelContract):
    model = NonblockingModel
