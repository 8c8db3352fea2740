"""Generated cases, each with what must become of it, and a table of what became of them."""
import contextlib
import io
import logging
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from mmcontainer.cli.tool import user_message

# A person waits so long for a refusal of the small files of these cases.
SECONDS = 30
# A refusal says at least what was found where; that takes more than a few words.
SHORTEST_MESSAGE = 40


@dataclass
class Case:
    """One generated situation.

    Attributes:
        text (str): What was generated, in words.
        expected (str): 'accept', 'refuse', or 'either' where both are right if the result is right.
        act (Callable): Does what a tool would do with it, and asserts that the result is right.
        names (tuple[str, ...]): One of these has to stand in a refusal: the file or the option.
        unchanged (Callable, optional): Asserts that a refusal has changed nothing.
    """
    text: str
    expected: str
    act: Callable[[], None]
    names: tuple
    unchanged: Optional[Callable[[], None]] = None


@dataclass
class Figures:
    """Outcome of the cases of one domain."""
    outcomes: Counter = field(default_factory=Counter)
    bad: list = field(default_factory=list)


def _fault_of_refusal(case: Case, message: str) -> str:
    if case.expected == 'accept':
        return f'refused, although nothing is wrong: {message}'
    if len(message) < SHORTEST_MESSAGE or not any(name in message for name in case.names):
        return f'the refusal does not name one of {case.names}: {message}'
    try:
        if case.unchanged is not None:
            case.unchanged()
    except AssertionError as error:
        return f'refused, but something was changed: {error}'
    return ''


def judge(case: Case) -> tuple[str, str]:
    """Run a case.

    Returns:
        tuple[str, str]: 'accepted', 'refused' or 'bad', and what is bad about it.
    """
    started = time.monotonic()
    try:
        with (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()),
              warnings.catch_warnings()):
            warnings.simplefilter('ignore')
            case.act()
    except Exception as error:  # every exception is a result here
        message = None if isinstance(error, AssertionError) else user_message(error)
        if message is None:
            return 'bad', ''.join(traceback.format_exception(error)[-3:])
        outcome, fault = 'refused', _fault_of_refusal(case, message)
    else:
        outcome = 'accepted'
        fault = 'accepted, although it is wrong' if case.expected == 'refuse' else ''
    if time.monotonic() - started > SECONDS:
        fault = fault or f'took more than {SECONDS} s'
    return ('bad', fault) if fault else (outcome, '')


def run(domains: dict[str, Callable[[random.Random, Path], Case]], cases: int, seed: int,
        report: Callable[[str], None] = print) -> dict[str, Figures]:
    """Generate and judge cases of each domain.

    Args:
        domains (dict[str, Callable]): Generators of cases by name; each gets a random generator and
            an empty folder.
        cases (int): How many of each domain.
        seed (int): Case ``i`` of a domain depends on seed, domain and ``i`` only.
        report (Callable): Gets a text for every bad case.

    Returns:
        dict[str, Figures]: By domain.
    """
    logging.disable(logging.CRITICAL)
    try:
        return {name: _run_domain(name, generate, cases, seed, report)
                for name, generate in domains.items()}
    finally:
        logging.disable(logging.NOTSET)


def _run_domain(name, generate, cases, seed, report) -> Figures:
    figures = Figures()
    for number in range(cases):
        with tempfile.TemporaryDirectory() as folder:
            case = generate(random.Random(f'{seed}/{name}/{number}'), Path(folder))
            outcome, fault = judge(case)
        figures.outcomes[outcome] += 1
        if fault:
            figures.bad.append((number, case.text, fault))
            report(f'BAD  --domain {name} --seed {seed}, case {number}: {case.text}\n  {fault}')
    return figures


def table(results: dict[str, Figures]) -> Iterable[str]:
    """Yield the lines of a table of all outcomes."""
    yield f'{"domain":<14}{"tried":>8}{"refused":>9}{"accepted":>10}{"bad":>6}'
    total = Counter()
    for name, figures in results.items():
        total += figures.outcomes
        yield _row(name, figures.outcomes)
    yield _row('all', total)


def _row(name: str, outcomes: Counter) -> str:
    return (f'{name:<14}{sum(outcomes.values()):>8}{outcomes["refused"]:>9}'
            f'{outcomes["accepted"]:>10}{outcomes["bad"]:>6}')
