"""Mistakes of the person at the keyboard, told apart from defects of the program."""


class UserError(Exception):
    """An expected mistake: a wrong path, missing data, an option that cannot work.

    Its text is all the user gets to see, without a traceback. It says what was expected, what was
    found and what to do.
    """
