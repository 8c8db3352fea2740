"""A progress bar for people who watch; nothing where the output goes into a file."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text


class SpeedColumn(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text('' if speed is None else f'{speed:.3g} images/s', style='progress.data.speed')


@contextmanager
def image_progress(total: int, console: Optional[Console] = None,
                   ) -> Iterator[Callable[[], None]]:
    """Show how many images are done, how many in a second, and how long the others will take.

    What is printed meanwhile appears above the bar.

    Args:
        total (int): Number of images; may turn out to be wrong.
        console (Console, optional): Where to show it; the standard error, if that is a terminal.

    Yields:
        Callable: To be called after every image.
    """
    console = console or Console(stderr=True)
    progress = Progress(
        BarColumn(), MofNCompleteColumn(), SpeedColumn(), TimeRemainingColumn(), console=console,
        disable=not console.is_terminal,
        # A stream that goes into a file stays as it is.
        redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty())
    task = progress.add_task('', total=total)
    with progress:
        yield lambda: progress.advance(task)
