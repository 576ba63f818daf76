"""Every test here may run tasks in the main thread; its hub is closed afterwards."""

import pytest

from rimstone.hub import close_hub, get_hub


@pytest.fixture(autouse=True)
def hub():
    yield get_hub()
    close_hub()
