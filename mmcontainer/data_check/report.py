"""The result of a check of data sets, for people to read."""
from collections.abc import Iterable
from dataclasses import dataclass, field

_NAMED = 10


def listed(items: Iterable, limit: int = _NAMED) -> str:
    """Join items by commas; of more than ``limit`` the first ones, and how many there are."""
    items = list(items)
    more = f' ... ({len(items)} in all)' if len(items) > limit else ''
    return ', '.join(str(item) for item in items[:limit]) + more


def counted(number: int, noun: str) -> str:
    """'1 box', '2 boxes': a number with its noun, in the plural where that is due."""
    ending = '' if number == 1 else 'es' if noun.endswith('x') else 's'
    return f'{number} {noun}{ending}'


@dataclass
class Report:
    """The result of a check.

    Attributes:
        problems: What has to be mended before the data can be used, one message each.
        notes: What is dropped or repaired, and why, one sentence each.
        summaries: One line per data set: how many images and objects are used.
        tables: Lines of the table of objects per class.
    """
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summaries: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def brief(self) -> list[str]:
        """Lines for the start of a run: what is used, and what is not."""
        return [*self.summaries, *(f'  note: {note}' for note in self.notes)]

    def lines(self) -> list[str]:
        """All of it, problems last, so that they are what one sees first."""
        lines = [*self.brief(), '', *self.tables] if self.tables else self.brief()
        if self.problems:
            lines += ['', counted(len(self.problems), 'problem') + ':',
                      *(f'  - {problem}' for problem in self.problems)]
        return lines
