"""Where a config reads its data: moving it to another folder, and saying what is missing."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

from .errors import UserError

SPLITS = ('train', 'val', 'test')
_HELP = """\
What you can do:
  - the data lies elsewhere: add  --data-root FOLDER  (FOLDER is what stands at the top of the tree)
  - you have no data yet: COCO 2017 is at https://cocodataset.org/#download
  - you only want to see it work:  make demo  (it makes its own small data set)"""


def iter_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the configs of the data sets that read files, below any number of wrappers.

    Args:
        dataset (dict): Data set config. A wrapper holds another one as ``dataset``, or several as
            ``datasets``: ConcatDataset, RepeatDataset, ClassBalancedDataset, MultiImageMixDataset
            ...

    Yields:
        dict: The innermost configs themselves, not copies.
    """
    inner = dataset.get('datasets') or [dataset['dataset']] if (
        'datasets' in dataset or 'dataset' in dataset) else []
    for child in inner:
        yield from iter_datasets(child)
    if not inner:
        yield dataset


def _loader_datasets(cfg, splits: Sequence[str] = SPLITS) -> list[dict]:
    loaders = [cfg.get(f'{split}_dataloader') for split in splits]
    return [leaf for loader in loaders if loader for leaf in iter_datasets(loader['dataset'])]


def _evaluators(cfg, splits: Sequence[str] = SPLITS) -> list[dict]:
    found = []
    for split in splits:
        evaluator = cfg.get(f'{split}_evaluator') or []
        found.extend([evaluator] if isinstance(evaluator, dict) else evaluator)
    return found


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).expanduser().parts


def _is_below(path: str, folder: str) -> bool:
    base = _parts(folder)
    return _parts(path)[:len(base)] == base


def _common_root(cfg) -> str:
    """The one folder below which all data sets of a config lie; UserError if there is none."""
    roots = sorted({leaf.get('data_root') or '' for leaf in _loader_datasets(cfg)})
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
    new = Path(root).expanduser()

    def rebase(text: str) -> str:
        if not _is_below(text, old):
            return text
        moved = new.joinpath(*_parts(text)[len(_parts(old)):])
        # A folder keeps its final slash: some configs append to it as to a string.
        return f'{moved}/' if text.endswith('/') else str(moved)

    for evaluator in _evaluators(cfg):
        ann_file = evaluator.get('ann_file')
        if isinstance(ann_file, str) and not _is_below(ann_file, old):
            raise UserError(f'--data-root: the data sets read from {old}, but the evaluator from '
                            f'{ann_file}. Correct ann_file of {evaluator.get("type")} first.')
        _map_strings(evaluator, rebase)
    for leaf in _loader_datasets(cfg):
        for key in leaf:
            if key != 'pipeline':
                leaf[key] = _map_strings(leaf[key], rebase)
    if cfg.get('data_root') is not None:
        cfg.data_root = f'{new}/'


def _join(root: str, path: str) -> Path:
    return Path(root or '') / Path(path).expanduser()


def _required_paths(cfg, splits: Sequence[str]) -> list[tuple[Path, bool]]:
    """(path, is_folder) of all annotation files and image folders on this machine's disk."""
    found = {}
    for leaf in _loader_datasets(cfg, splits):
        if leaf.get('backend_args'):
            continue  # object storage: there is no folder to look at
        root = leaf.get('data_root') or ''
        if leaf.get('ann_file'):
            found[_join(root, leaf['ann_file'])] = False
        prefix = leaf.get('data_prefix') or {}
        for folder in prefix.values() if isinstance(prefix, dict) else [prefix]:
            if isinstance(folder, str):
                found[_join(root, folder)] = True
    for evaluator in _evaluators(cfg, splits):
        if isinstance(evaluator.get('ann_file'), str) and not evaluator.get('backend_args'):
            found[Path(evaluator['ann_file']).expanduser()] = False
    return sorted(found.items())


def _is_there(path: Path, is_folder: bool) -> bool:
    if not is_folder:
        return path.is_file()
    return path.is_dir() and any(path.iterdir())


class _Node:
    """A file or folder of the drawn tree."""

    def __init__(self):
        self.children = {}
        self.is_folder = False
        self.remark = ''

    def child(self, name: str) -> '_Node':
        self.is_folder = True
        return self.children.setdefault(name, _Node())

    def lines(self, indent: str = '') -> Iterator[tuple[str, str]]:
        """Yield (drawn name, remark) of everything below this folder."""
        for position, (name, node) in enumerate(self.children.items(), start=1):
            last = position == len(self.children)
            slash = '/' if node.is_folder else ''
            yield f'{indent}{"└── " if last else "├── "}{name}{slash}', node.remark
            yield from node.lines(indent + ('    ' if last else '│   '))


def _draw_tree(top: Path, entries: Sequence[tuple[Path, bool, str]]) -> str:
    """Draw paths below ``top`` as a tree, with a remark behind each.

    Args:
        top (Path): Folder that all paths lie below.
        entries (Sequence[tuple]): Path, whether it is a folder, and the remark.
    """
    tree = _Node()
    for path, is_folder, remark in entries:
        node = tree
        for part in path.relative_to(top).parts:
            node = node.child(part)
        node.is_folder = node.is_folder or is_folder
        node.remark = remark
    lines = [(f'{top}/', tree.remark), *tree.lines()]
    width = max(len(name) for name, _ in lines) + 2
    return '\n'.join(f'{name:<{width}}{remark}'.rstrip() for name, remark in lines)


def check_data(cfg, splits: Sequence[str] = ('train', 'val')) -> None:
    """Check that the annotation files and image folders of a config exist.

    Args:
        cfg (Config): Config with ``*_dataloader`` and ``*_evaluator``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test' will be used.

    Raises:
        UserError: One message for everything that is missing: the expected tree with the missing
            parts marked, and what to do.
    """
    required = _required_paths(cfg, splits)
    missing = [path for path, is_folder in required if not _is_there(path, is_folder)]
    if not missing:
        return
    roots = {Path(leaf.get('data_root') or '.').expanduser()
             for leaf in _loader_datasets(cfg, splits)}
    trees = {}
    for path, is_folder in required:
        # The innermost folder, where one root lies below another; an absolute path may have none.
        top = max((root for root in roots if _is_below(path, root)),
                  key=lambda root: len(root.parts), default=path.parent)
        trees.setdefault(top, []).append((path, is_folder, _remark(path, is_folder)))
    places = ', '.join(str(top.resolve()) for top in sorted(trees))
    drawn = '\n'.join(_draw_tree(top, entries) for top, entries in sorted(trees.items()))
    raise UserError(f'The data of this config is not complete: {len(missing)} of {len(required)} '
                    f'parts are missing in {places}. Expected:\n\n{drawn}\n\n{_HELP}')


def _remark(path: Path, is_folder: bool) -> str:
    if _is_there(path, is_folder):
        return ''
    return '<- empty' if is_folder and path.is_dir() else '<- missing'
