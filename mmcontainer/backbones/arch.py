"""Architecture rows: a name of a table, or a dict with the same keys."""
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Union


def resolve_arch(arch: Union[str, Mapping], settings: dict[str, dict],
                 owner: str) -> dict[str, Any]:
    """Return a row of ``settings`` by name, or check a row that the user wrote.

    Entries that are sequences have one value per stage and come back as tuples.

    Args:
        arch (str | Mapping): Name of a row, or a mapping with exactly the keys of the rows.
        settings (dict[str, dict]): The table.
        owner (str): Class name, for messages.

    Raises:
        ValueError: Unknown name, missing or unknown keys, or sequences of different lengths.
    """
    if isinstance(arch, str):
        if arch not in settings:
            guess = get_close_matches(arch, settings, n=1)
            hint = f' Did you mean {guess[0]!r}?' if guess else ''
            raise ValueError(f'Unknown arch {arch!r} of {owner}; expected one of '
                             f'{", ".join(map(repr, settings))}, or a dict.{hint}')
        arch = settings[arch]
    expected = set(next(iter(settings.values())))
    if not isinstance(arch, Mapping) or set(arch) != expected:
        found = sorted(arch) if isinstance(arch, Mapping) else repr(arch)
        raise ValueError(f'An arch of {owner} must be a name or a dict with the keys '
                         f'{sorted(expected)}, got {found}.')
    row = {key: tuple(value) if isinstance(value, (list, tuple)) else value
           for key, value in arch.items()}
    lengths = {key: len(value) for key, value in row.items() if isinstance(value, tuple)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f'An arch of {owner} needs one value per stage in every list, '
                         f'got lists of lengths {lengths}.')
    return row
