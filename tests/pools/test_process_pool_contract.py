"""The executor contract over `ProcessPoolExecutor`."""

import pytest

from rimstone import ProcessPoolExecutor
from rimstone.testing.executor_contract import ExecutorContract

pytestmark = pytest.mark.slow


class TestProcessPoolContract(ExecutorContract):
    def make_pool(self, workers: int = 2) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers)
