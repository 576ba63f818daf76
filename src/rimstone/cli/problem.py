"""Problem: what ends a command with a message for the user and an exit code."""

__all__ = ["FAILED", "USAGE", "Problem", "reason"]

FAILED = 1
USAGE = 2


class Problem(Exception):
    """Something the user can put right. The message says what was given, what is allowed and what to do."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reason(error: OSError) -> str:
    """What the system says about *error*, without the number and the path, which our message has already."""
    return error.strerror or str(error)
