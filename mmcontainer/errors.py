"""Mistakes of the person at the keyboard, told apart from defects of the program."""
from typing import Optional


class UserError(Exception):
    """An expected mistake: a wrong path, missing data, an option that cannot work.

    Its text is all the user gets to see, without a traceback. It says what was expected, what was
    found and what to do.
    """


def find_interrupt(error: Optional[BaseException]) -> Optional[KeyboardInterrupt]:
    """The Ctrl-C that an exception is, or comes from; None without one.

    Libraries catch everything at some places and raise exceptions of their own, MMEngine where it
    formats a config, for example.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
