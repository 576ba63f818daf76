"""The uring model keeps the contract of every IO model."""

import pytest

from rimstone.iomodel.uring import UringModel
from rimstone.testing.iomodel_contract import IOModelContract


@pytest.mark.skipif(UringModel.why_unavailable() is not None, reason=str(UringModel.why_unavailable()))
class TestUringModel(IOModelContract):
    model = UringModel
    acts_while_waiting = True
