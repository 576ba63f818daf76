"""The kqueue model keeps the contract of every IO model; its tests' names say if it was on a fake of kqueue."""

import select

import pytest

from rimstone.iomodel.kqueue import KqueueModel
from rimstone.testing import fake_kqueue
from rimstone.testing.iomodel_contract import IOModelContract


class TestKqueueModel(IOModelContract):
    model = KqueueModel

    @pytest.fixture(autouse=True, params=["kernel" if hasattr(select, "kqueue") else "fake"])
    def kqueue(self, request, monkeypatch):
        if request.param == "fake":
            fake_kqueue.install(monkeypatch)
