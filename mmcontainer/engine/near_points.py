"""The loss near chosen iterations, by the statistic of the published numbers."""
import math
from statistics import median
from typing import Any, Optional

import torch

from ..paper.curves import PublishedRun


class LossNearPoints:
    """Total losses near the iterations at which a published run states one.

    Progress is measured in images, because the iterations of a run have as many images as it has
    GPUs for: iterations of ``run.images`` images are *published* ones here. Losses of several
    smaller iterations (accumulated gradients) are averaged to the loss of a published one.

    Args:
        run (PublishedRun): By iteration.
    """

    def __init__(self, run: PublishedRun):
        self._run = run
        self.start(0)

    def start(self, images: int) -> None:
        """Begin after a number of images, with no losses of those before."""
        self.images = self._known_from = images
        self._losses: dict[int, list[float]] = {}  # by published iteration: their sum and number
        self._find_pending()

    @property
    def done(self) -> int:
        """Number of published iterations that are complete."""
        return self.images // self._run.images

    def needs(self, images: int) -> bool:
        """Tell whether the loss of an iteration of so many images, the next one, is wanted."""
        return self._is_near(self._iteration(self.images + images))

    def add(self, images: int, loss: Optional[float]) -> None:
        """Count an iteration; ``loss`` is the mean of all processes, or None if it is not known."""
        self.images += images
        if loss is not None and math.isfinite(loss):  # fp16 skips iterations that overflow
            entry = self._losses.setdefault(self._iteration(self.images), [0., 0])
            entry[0] += loss
            entry[1] += 1

    def pop_due(self, is_over: bool = False) -> list[int]:
        """Points whose losses are there now, each of them once.

        Args:
            is_over: Training has ended, so that those after the last points will never come.
        """
        wait = 0 if is_over else self._run.within
        due = [point for point in self._pending if self.done > point + wait]
        self._pending = [point for point in self._pending if point not in due]
        return due

    def median(self, point: int) -> Optional[float]:
        """Median of the losses near a point; None if those of its first iterations are missing."""
        logged: dict[int, list[float]] = {}
        for iteration, (total, number) in self._losses.items():
            if self._is_near(iteration, point):
                logged.setdefault(self._logged_at(iteration), []).append(total / number)
        begin = max(0, point - self._run.within - self._run.every)
        first = next(iteration for iteration in range(begin, point + 1)
                     if self._is_near(iteration, point))
        if not logged or self._known_from > first * self._run.images:
            return None
        return median(median(losses) for losses in logged.values())

    def forget(self) -> None:
        """Drop the losses that no further point needs."""
        self._losses = {iteration: entry for iteration, entry in self._losses.items()
                        if self._is_near(iteration)}

    def state_dict(self) -> dict[str, Any]:
        """Numbers and one tensor, which ``torch.load(weights_only=True)`` reads."""
        rows = [[iteration, *entry] for iteration, entry in self._losses.items()]
        return dict(images=self.images, known_from=self._known_from,
                    losses=torch.tensor(rows, dtype=torch.float64).reshape(-1, 3))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; the tensor may lie on any device."""
        self.images, self._known_from = state['images'], state['known_from']
        self._losses = {int(iteration): [total, int(number)]
                        for iteration, total, number in state['losses'].tolist()}
        self._find_pending()

    def _find_pending(self) -> None:
        self._pending = [point for point in sorted(self._run.loss)
                         if self.done <= point + self._run.within]

    def _iteration(self, images: int) -> int:
        """The published iteration, counted from 0, that the last of so many images belongs to."""
        return -(-images // self._run.images) - 1

    def _logged_at(self, iteration: int) -> int:
        """The iteration after which the published log has the value that this one is part of."""
        return iteration // self._run.every * self._run.every + self._run.every - 1

    def _is_near(self, iteration: int, point: Optional[int] = None) -> bool:
        points = self._pending if point is None else [point]
        return any(abs(self._logged_at(iteration) - one) <= self._run.within for one in points)
