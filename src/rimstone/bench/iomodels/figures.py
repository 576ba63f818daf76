"""Looks up what was measured: medians over the rounds, ratios within each round. Read plan.py before."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rimstone.bench.iomodels.plan import calls_of, cell, phase

__all__ = ["Figures"]


class Figures:
    """The results of all measurements, by name; None stands for what was not measured, or not in all rounds.

    Args:
        results: Rounds by the name of their measurement, see measure.py.
    """

    def __init__(self, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._results = results

    def of(self, server: str, connections: int, active: int | None = None, key: str = "value") -> float | None:
        """The median of a number of a cell."""
        return self.median(cell(server, connections, active), key)

    def calls(self, server: str, connections: int, active: int | None = None) -> float | None:
        """System calls for a message."""
        return self.median(calls_of(server, connections, active), "value")

    def phase(self, family: str, key: str) -> float | None:
        """A number of the two phases of a family."""
        return self.median(phase(family), key)

    def median(self, name: str, key: str) -> float | None:
        """The median of a number of any measurement."""
        values = self.values(name, key)
        return median(values) if values else None

    def ratio(self, own: str, rival: str, key: str = "value") -> float | None:
        """The median of the ratios within each round, of two measurements."""
        pairs = [(a, b) for a, b in zip(self.values(own, key), self.values(rival, key), strict=False) if b]
        return median(a / b for a, b in pairs) if pairs else None

    def why_missing(self, name: str) -> str | None:
        """Why a measurement has no value: skipped or failed, and the reason; None if it has one or was not planned."""
        for each in self._results.get(name, ()):
            for outcome in ("skipped", "failed"):
                if outcome in each:
                    return f"{outcome}: {each[outcome]}"
        return None

    def values(self, name: str, key: str) -> list[float]:
        """A number of any measurement, in each round; none if one round has failed."""
        if self.why_missing(name) is not None:
            return []
        return [each[key] for each in self._results.get(name, ()) if key in each]
