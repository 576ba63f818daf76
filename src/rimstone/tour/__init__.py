"""The programs of `rimstone tour`, and how one is run. `chapters.py` says which there are, `play.py` runs them.

What is shown, and how, is the command's business (`cli/tour.py`).
"""

from rimstone.tour.chapters import CHAPTERS, Chapter, Lesson
from rimstone.tour.play import LessonFailed, Measured, play

__all__ = ["CHAPTERS", "Chapter", "Lesson", "LessonFailed", "Measured", "play"]
