"""Tracebacks as the user would see them without us: their own frames only."""

import importlib
import os
import runpy
import sys
from types import TracebackType

__all__ = ["print_users_traceback", "users_traceback"]

_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


def _leads_to_user_code(file: str) -> bool:
    return file in {importlib.__file__, runpy.__file__} or file.startswith(
        (_OUR_FOLDER, "<frozen importlib", "<frozen runpy")
    )


def users_traceback(error: BaseException) -> TracebackType | None:
    """The traceback of *error* from the first frame of user code on; None when it never got there.

    Only leading frames go: what user code calls later, also if it is ours, belongs to the story.
    """
    frame = error.__traceback__
    while frame is not None and _leads_to_user_code(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return frame


def print_users_traceback(error: BaseException) -> None:
    """Print *error* as the interpreter would, through `sys.excepthook`, which the user may have set."""
    sys.stdout.flush()
    traceback = users_traceback(error)
    # The hook's default prints the traceback of the exception object, not the one it is given.
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)
