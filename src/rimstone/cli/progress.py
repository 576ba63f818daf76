"""The progress bar of `rimstone map`, on stderr: done, share, rate, in flight, failed, time left.

Nothing is drawn per line. rich's own thread redraws ten times a second and looks at the counts then.
"""

from collections import deque
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rimstone.cli.pipeline import Counts
from rimstone.clock import monotonic

__all__ = ["PipelineProgress"]

_REDRAWS_PER_SECOND = 10
# The rate is that of the last few seconds: what a person wants to know while watching.
_RATE_WINDOW_SECONDS = 5.0


class PipelineProgress(Progress):
    """Shows *counts* while its `with` block runs, and disappears after it."""

    def __init__(self, counts: Counts, total_bytes: int | None, console: Console | None = None) -> None:
        """Prepare the bar.

        Args:
            counts: Looked at for each redraw.
            total_bytes: Size of the input where it is known; it gives the share done and the time left.
            console: Where to draw; None means stderr.
        """
        self._counts = counts
        self._samples: deque[tuple[float, int]] = deque(
            [(monotonic(), 0)], maxlen=int(_RATE_WINDOW_SECONDS * _REDRAWS_PER_SECOND)
        )
        super().__init__(
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console or Console(stderr=True),
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            # What the user's module prints must stay on the way it takes without a bar.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar = self.add_task("", total=total_bytes or None, numbers="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called by rich for each redraw."""
        if self.tasks:
            self.update(self._bar, completed=self._counts.done_bytes, numbers=self._numbers())
        return super().get_renderables()

    def _numbers(self) -> str:
        counts, now = self._counts, monotonic()
        self._samples.append((now, counts.done))
        since, done_then = self._samples[0]
        rate = (counts.done - done_then) / (now - since) if now > since else 0.0
        return f"{counts.done:,} done  {rate:,.0f}/s  {counts.in_flight:,} in flight  {counts.failed:,} failed "
