"""``--data-root``: letting a config read its data from another folder."""
from pathlib import Path
from typing import Callable

from ..config_nodes import evaluators, join_path, loader_datasets
from ..errors import UserError
from ..type_names import type_name


def _is_below(path: str, folder: str) -> bool:
    return join_path(path).is_relative_to(join_path(folder))


def _common_root(cfg) -> str:
    """The one folder below which all data sets of a config lie; UserError if there is none."""
    roots = sorted({leaf.get('data_root') or '' for leaf in loader_datasets(cfg)})
    if not roots:
        raise UserError('--data-root: this config has no dataloader to redirect.')
    for candidate in (cfg.get('data_root'), min(roots, key=len)):
        if candidate and all(_is_below(root or candidate, candidate) for root in roots):
            return candidate
    listing = '\n'.join(f'  - {root or "(no data_root)"}' for root in roots)
    raise UserError(
        f'--data-root cannot replace several folders by one; this config reads from\n{listing}\n'
        'Set data_root of each data set, and ann_file of each evaluator, in a config of your own.')


def _map_strings(node, replace: Callable[[str], str]):
    """Apply ``replace`` to every string in nested dicts and lists, in place where possible."""
    if isinstance(node, str):
        return replace(node)
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _map_strings(value, replace)
    elif isinstance(node, (list, tuple)):
        return type(node)(_map_strings(value, replace) for value in node)
    return node


def set_data_root(cfg, root: str) -> None:
    """Let every dataloader and evaluator of a config read from another folder.

    Data sets name their files relative to ``data_root``, evaluators name theirs in full: both move.
    The layout below the folder stays as the config has it.

    Args:
        cfg (Config): Changed in place: ``data_root``, the data sets of
            ``{train,val,test}_dataloader`` below any wrapper, and ``{val,test}_evaluator``.
        root (str): The new folder, relative to the current one or absolute; '~' is expanded.

    Raises:
        UserError: If the config reads from several unrelated folders, or evaluates against a file
            of another folder than its data sets'.
    """
    old = _common_root(cfg)
    if not join_path(old).parts:
        raise UserError(f'--data-root: the data sets of this config read from {old!r}, the current '
                        'folder, so that names of files cannot be told from other words. Set '
                        'data_root of each data set in a config of your own.')
    new = Path(root).expanduser()

    def rebase(text: str) -> str:
        if not _is_below(text, old):
            return text
        moved = new / join_path(text).relative_to(join_path(old))
        # A folder keeps its final slash: some configs append to it as to a string.
        return f'{moved}/' if text.endswith('/') else str(moved)

    for evaluator in evaluators(cfg):
        ann_file = evaluator.get('ann_file')
        if isinstance(ann_file, str) and not _is_below(ann_file, old):
            raise UserError(f'--data-root: the data sets read from {old}, but the evaluator from '
                            f'{ann_file}. Correct ann_file of '
                            f'{type_name(evaluator.get("type"))} first.')
        _map_strings(evaluator, rebase)
    for leaf in loader_datasets(cfg):
        for key in leaf:
            if key != 'pipeline':
                leaf[key] = _map_strings(leaf[key], rebase)
    if cfg.get('data_root') is not None:
        cfg.data_root = f'{new}/'
