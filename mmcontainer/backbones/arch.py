"""Architecture rows: a name of a table, or a dict with the same keys."""
from collections.abc import Iterator, Mapping
from typing import Any, Optional, Union

from ..errors import did_you_mean
from .arguments import check_row


def resolve_arch(arch: Union[str, Mapping],
                 settings: dict[str, dict],
                 owner: str,
                 defaults: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """Return a row of ``settings`` by name, or check a row that the user wrote.

    Entries that are sequences, also inside of a nested mapping, have one value per stage and come
    back as tuples.

    Args:
        arch (str | Mapping): Name of a row, or a mapping with exactly the keys of the rows.
        settings (dict[str, dict]): The table.
        owner (str): Class name, for messages.
        defaults (dict[str, Any], optional): Entries that a row may leave out.

    Raises:
        ValueError: Unknown name, missing or unknown keys, sequences of different lengths, or values
            of the wrong type.
    """
    if isinstance(arch, str):
        if arch not in settings:
            raise ValueError(f'Unknown arch {arch!r} of {owner}; expected one of '
                             f'{", ".join(map(repr, settings))}, or a dict.'
                             f'{did_you_mean(arch, settings, 1)}')
        arch = settings[arch]
    defaults = defaults or {}
    expected = set(next(iter(settings.values()))) | set(defaults)
    arch = {**defaults, **arch} if isinstance(arch, Mapping) else arch
    if not isinstance(arch, Mapping) or set(arch) != expected:
        found = sorted(arch) if isinstance(arch, Mapping) else repr(arch)
        raise ValueError(f'An arch of {owner} must be a name or a dict with the keys '
                         f'{sorted(expected)}'
                         + (f' ({sorted(defaults)} may be left out)' if defaults else '')
                         + f', got {found}.')
    row = {key: _with_tuples(value) for key, value in arch.items()}
    lengths = dict(_lengths(row))
    if len(set(lengths.values())) > 1:
        raise ValueError(f'An arch of {owner} needs one value per stage in every list, '
                         f'got lists of lengths {lengths}.')
    check_row(row, owner)
    return row


def of_stage(entry: Any, stage: int) -> Any:
    """Return an entry of a row as it is for one stage; inside of mappings, too."""
    if isinstance(entry, Mapping):
        return {key: of_stage(value, stage) for key, value in entry.items()}
    return entry[stage] if isinstance(entry, tuple) else entry


def _with_tuples(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return {key: _with_tuples(value) for key, value in entry.items()}
    return tuple(entry) if isinstance(entry, (list, tuple)) else entry


def _lengths(row: Mapping, prefix: str = '') -> Iterator[tuple[str, int]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _lengths(value, f'{prefix}{key}.')
        elif isinstance(value, tuple):
            yield prefix + key, len(value)
