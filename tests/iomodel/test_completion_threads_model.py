"""The completion_threads model keeps the contract of every IO model."""

import pytest

from rimstone.iomodel.completion_threads import CompletionThreadsModel
from rimstone.testing.iomodel_contract import IOModelContract


@pytest.mark.skipif(
    CompletionThreadsModel.why_unavailable() is not None, reason=str(CompletionThreadsModel.why_unavailable())
)
class TestCompletionThreadsModel(IOModelContract):
    model = CompletionThreadsModel
