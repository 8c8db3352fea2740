"""Tables of parameter names, read in both directions.

A table maps patterns of official names to patterns of our names. In a pattern ``#`` stands for one
number and a final ``*`` for the rest of the name; both sides of a row hold the same wild-cards in
the same order. A key that no row covers is an error: nothing is skipped in silence.
"""
import re
from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Tensor

_WILDCARDS = {'#': r'(\d+)', '*': r'(.+)'}


COUNTER = 'num_batches_tracked'


class KeyMismatchError(ValueError):
    """Parameter names (or shapes) of a checkpoint that do not fit the model or the key table."""


def _compile(source: str, target: str) -> tuple['re.Pattern', str]:
    pattern = ''.join(_WILDCARDS.get(char, re.escape(char)) for char in source)
    return re.compile(pattern + '$'), re.sub(r'[#*]', '{}', target)


class KeyTable:
    """Two-way renaming of state-dict keys.

    Args:
        name (str): Name of the checkpoint source, used in messages.
        rows (Mapping[str, str]): {official pattern: our pattern}.

    Raises:
        ValueError: If the two sides of a row do not have the same wild-cards.
    """

    def __init__(self, name: str, rows: Mapping[str, str]):
        self.name = name
        for official, ours in rows.items():
            if re.findall(r'[#*]', official) != re.findall(r'[#*]', ours):
                raise ValueError(f'Row {official!r}: {ours!r} of key table {name!r} has different '
                                 'wild-cards on its two sides.')
        self._to_ours = [_compile(*row) for row in rows.items()]
        self._to_official = [_compile(ours, official) for official, ours in rows.items()]

    def rename(self, keys: Iterable[str],
               reverse: bool = False) -> tuple[dict[str, str], list[str]]:
        """Return ({key: new name}, [keys without a row]); ``reverse`` reads our names instead."""
        renamed, unplaced = {}, []
        for key in keys:
            new_key = self._rename_one(key, self._to_official if reverse else self._to_ours)
            if new_key is None:
                unplaced.append(key)
            else:
                renamed[key] = new_key
        return renamed, unplaced

    def convert(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> dict[str, Tensor]:
        """Rename a whole state dict.

        Args:
            state_dict (Mapping[str, Tensor]): Tensors by official name (ours with ``reverse``).
            reverse (bool): Read the table from our names to the official ones.

        Returns:
            dict[str, Tensor]: The same tensors, in the same order, under the other names.

        Raises:
            KeyMismatchError: Naming every key that no row covers, or two keys with one new name.
        """
        renamed, unplaced = self.rename(state_dict, reverse)
        if unplaced:
            direction = 'exported to' if reverse else 'read as'
            raise KeyMismatchError(
                f'{len(unplaced)} of {len(state_dict)} keys cannot be {direction} a checkpoint of '
                f'source {self.name!r}: {", ".join(unplaced)}.')
        if len(set(renamed.values())) != len(renamed):
            raise KeyMismatchError(f'Two keys of the checkpoint map to the same name in source '
                                   f'{self.name!r}; it mixes two naming schemes.')
        return {renamed[key]: value for key, value in state_dict.items()}

    def describe(self, state_dict: Mapping[str, Tensor], reverse: bool = False) -> list[str]:
        """Return what :meth:`convert` does with each entry, one line each."""
        return [f'{key} -> {new}  {tuple(state_dict[key].shape)}'
                for key, new in self.rename(state_dict, reverse)[0].items()]

    @staticmethod
    def _rename_one(key: str, rows: list[tuple['re.Pattern', str]]) -> Optional[str]:
        for pattern, template in rows:
            match = pattern.match(key)
            if match:
                return template.format(*match.groups())
        return None


def add_counters(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give norms that count no batches (frozen ones of other libraries) a counter of 0."""
    complete = {}
    for key, value in state_dict.items():
        complete[key] = value
        prefix, _, name = key.rpartition('.')
        if name == 'running_var' and f'{prefix}.{COUNTER}' not in state_dict:
            complete[f'{prefix}.{COUNTER}'] = torch.tensor(0)
    return complete
