"""The model that docs/guides/add-an-io-model.md writes down keeps the contract, as the guide says."""

import re
import select
from pathlib import Path

import pytest

from rimstone import iomodel
from rimstone.testing import fake_kqueue
from rimstone.testing.iomodel_contract import IOModelContract

GUIDE = Path(__file__).parents[2] / "docs/guides/add-an-io-model.md"


def model_of_the_guide():
    """The class that its first block of Python makes."""
    text = GUIDE.read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    line = text[: block.start(1)].count("\n")
    names = {}
    exec(compile("\n" * line + block[1], str(GUIDE), "exec"), names)
    return names["FirstKqueue"]


class TestModelOfTheGuide(IOModelContract):
    model = model_of_the_guide()

    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        if not hasattr(select, "kqueue"):
            fake_kqueue.install(monkeypatch)
        monkeypatch.setattr(iomodel, "_MODELS", (*iomodel._MODELS, self.model))
