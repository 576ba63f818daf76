"""The executor contract over `Pool`."""

import pytest

from rimstone import Pool
from rimstone.testing.executor_contract import ExecutorContract

pytestmark = pytest.mark.slow


class TestPoolContract(ExecutorContract):
    def make_pool(self, workers: int = 2) -> Pool:
        return Pool(workers, processes=workers)
