"""What one call left behind: a value or an error, with the input that led to it."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of one call of `Executor.outcomes`.

    Attributes:
        input: What the function was called with: the item itself for one iterable, a tuple for several.
        value: What it returned; None when it failed.
        error: The exception it raised; None when it returned.
    """

    input: Any
    value: T | None = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """True when the call returned."""
        return self.error is None

    def unwrap(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # a call that returned has a value, also None
