"""Mistakes of the person at the keyboard, told apart from defects of the program."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Optional


class UserError(Exception):
    """An expected mistake: a wrong path, missing data, an option that cannot work.

    Its text is all the user gets to see, without a traceback. It says what was expected, what was
    found and what to do.
    """


class ConfigError(UserError, ValueError):
    """A value of a config that cannot work, noticed by code that may run without any tool."""


def did_you_mean(word: str, known: Iterable[str], number: int = 3) -> str:
    """A question, with a space before it, that names what comes closest; empty if nothing does."""
    close = get_close_matches(word, sorted(known), n=number)
    return f' Did you mean {" or ".join(map(repr, close))}?' if close else ''


@contextmanager
def as_user_error() -> Iterator[None]:
    """Show what this package refuses as a message, where it builds or loads what a user named.

    ``ValueError``, ``FileNotFoundError`` and ``ImportError`` become :class:`UserError` if code of
    this package raised them. Errors of other libraries are left alone, and so is everything that
    happens outside: it is unexpected there and keeps its traceback.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, FileNotFoundError, ImportError) as error:
        if not raised_in(error).startswith('mmcontainer.'):
            raise
        raise UserError(str(error)) from error


def raised_in(error: BaseException) -> str:
    """Name of the module that raised an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get('__name__', '') if trace is not None else ''


def find_interrupt(error: Optional[BaseException]) -> Optional[KeyboardInterrupt]:
    """The Ctrl-C that an exception is, or comes from; None without one.

    Libraries catch everything at some places and raise exceptions of their own, MMEngine where it
    formats a config, for example.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
