"""Whether a descriptor still leads to the file that it led to before: a number that is closed is soon another's."""

import os

__all__ = ["is_still"]


def is_still(fd: int, before: os.stat_result) -> bool:
    """*before*: what fstat said of *fd* then."""
    try:
        return os.path.samestat(before, os.fstat(fd))
    except OSError:
        return False
