"""Where a config reads its data: moving it to another folder, and saying what is missing."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from ..errors import UserError
from ..type_names import type_name

SPLITS = ('train', 'val', 'test')
# MMPretrain's data sets that read one folder of images per class, unless there is a list of images;
# with the number of classes that must be there (0: any) where the config does not name them.
_FOLDER_PER_CLASS = {'ImageNet': 1000, 'CustomDataset': 0}
_HELP = """\
What you can do:
  - the data lies elsewhere: add  --data-root FOLDER  (in place of {roots})
"""
_HELP_COCO = """\
  - you have no data yet: COCO 2017 is at https://cocodataset.org/#download
  - you only want to see it work:  make demo  (it makes its own small data set)"""
_HELP_IMAGENET = """\
  - you have no data yet: ImageNet-1k (ILSVRC 2012) is at https://image-net.org/download.php
  - train/ and val/ hold one folder of images per class (n01440764/ ...). Images that all lie in one
    folder, as those of the official val archive, need a list beside: meta/val.txt (or train.txt),
    one line "FILE CLASS_NUMBER" per image
  - meta/train_10pct.txt and the like are made by  tools/make_imagenet_subset.py
  - you have images of other classes: docs/imagenet.md says what to change in the config"""


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


def _path(*parts: Optional[str]) -> Path:
    """Join parts, of which a later absolute one replaces the earlier; '~' is the home folder."""
    return Path(*(Path(part or '').expanduser() for part in parts))


def _is_below(path: str, folder: str) -> bool:
    return _path(path).is_relative_to(_path(folder))


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
        moved = new / _path(text).relative_to(_path(old))
        # A folder keeps its final slash: some configs append to it as to a string.
        return f'{moved}/' if text.endswith('/') else str(moved)

    for evaluator in _evaluators(cfg):
        ann_file = evaluator.get('ann_file')
        if isinstance(ann_file, str) and not _is_below(ann_file, old):
            raise UserError(f'--data-root: the data sets read from {old}, but the evaluator from '
                            f'{ann_file}. Correct ann_file of '
                            f'{type_name(evaluator.get("type"))} first.')
        _map_strings(evaluator, rebase)
    for leaf in _loader_datasets(cfg):
        for key in leaf:
            if key != 'pipeline':
                leaf[key] = _map_strings(leaf[key], rebase)
    if cfg.get('data_root') is not None:
        cfg.data_root = f'{new}/'


class _Part(NamedTuple):
    """A file or folder that a config reads.

    Attributes:
        path (Path): Where it has to be.
        is_folder (bool): Whether it is a folder, which must not be empty.
        num_classes (int, optional): Folders, one per class, that this folder has to hold; 0 for any
            number but none, None where it need not hold folders.
    """
    path: Path
    is_folder: bool
    num_classes: Optional[int] = None

    def fault(self) -> str:
        """Say what is wrong with it, in a few words; an empty string if nothing is."""
        if not self.is_folder:
            return '' if self.path.is_file() else 'missing'
        if not self.path.is_dir():
            return 'missing'
        entries = list(self.path.iterdir())
        if not entries:
            return 'empty'
        found = sum(entry.is_dir() for entry in entries) if self.num_classes is not None else None
        if found is None or found and found == (self.num_classes or found):
            return ''
        return (f'{found} folders, {self.num_classes} expected: one per class'
                if self.num_classes else 'no folders in it: one per class expected')

    def __str__(self) -> str:
        return f'{self.path}{"/" if self.is_folder else ""}'


def _num_classes(leaf: dict) -> int:
    classes = (leaf.get('metainfo') or {}).get('classes')
    if classes is None:
        return _FOLDER_PER_CLASS[type_name(leaf.get('type'))]
    return len(classes) if isinstance(classes, (list, tuple)) else 0  # a file that lists them


def _image_folder_parts(leaf: dict, root: str) -> Iterator[_Part]:
    """What an ImageNet or CustomDataset reads: see their docstrings in MMPretrain."""
    split = leaf.get('split', '')
    ann_file = leaf.get('ann_file')
    if not ann_file and split and _path(root, f'meta/{split}.txt').is_file():
        ann_file = f'meta/{split}.txt'
    if ann_file:
        yield _Part(_path(root, ann_file), is_folder=False)
    prefix = leaf.get('data_prefix') or split
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    has_folders = not ann_file and leaf.get('with_label', True) and split != 'test'
    yield _Part(_path(root, prefix), True, _num_classes(leaf) if has_folders else None)


def class_folder(leaf: dict) -> Optional[Path]:
    """The folder with one folder of images per class that a data set reads, None if it has none.

    Args:
        leaf (dict): Config of a data set, below any wrapper.
    """
    if type_name(leaf.get('type')) not in _FOLDER_PER_CLASS:
        return None
    parts = _image_folder_parts(leaf, leaf.get('data_root') or '')
    return next((part.path for part in parts if part.num_classes is not None), None)


def _annotated_parts(leaf: dict, root: str) -> Iterator[_Part]:
    if leaf.get('ann_file'):
        yield _Part(_path(root, leaf['ann_file']), is_folder=False)
    prefix = leaf.get('data_prefix') or {}
    for folder in prefix.values() if isinstance(prefix, dict) else [prefix]:
        if isinstance(folder, str):
            yield _Part(_path(root, folder), is_folder=True)


def _required_parts(cfg, splits: Sequence[str]) -> list[_Part]:
    """All annotation files and image folders on this machine's disk, each once."""
    found = []
    for leaf in _loader_datasets(cfg, splits):
        if leaf.get('backend_args'):
            continue  # object storage: there is no folder to look at
        kind = type_name(leaf.get('type'))
        parts = _image_folder_parts if kind in _FOLDER_PER_CLASS else _annotated_parts
        found.extend(parts(leaf, leaf.get('data_root') or ''))
    for evaluator in _evaluators(cfg, splits):
        if isinstance(evaluator.get('ann_file'), str) and not evaluator.get('backend_args'):
            found.append(_Part(_path(evaluator['ann_file']), is_folder=False))
    return sorted({part.path: part for part in found}.values(), key=lambda part: part.path)


def check_data(cfg, splits: Sequence[str] = ('train', 'val')) -> None:
    """Check that the annotation files and image folders of a config exist.

    Args:
        cfg (Config): Config with ``*_dataloader`` and ``*_evaluator``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test' will be used.

    Raises:
        UserError: One message that lists everything that is missing, and what to do.
    """
    required = _required_parts(cfg, splits)
    faults = [f'  {part}: {part.fault()}' for part in required if part.fault()]
    if not faults:
        return
    leaves = _loader_datasets(cfg, splits)
    classification = any(type_name(leaf.get('type')) in _FOLDER_PER_CLASS for leaf in leaves)
    roots = ', '.join(sorted({leaf.get('data_root') or './' for leaf in leaves}))
    listing = '\n'.join(faults)
    raise UserError(
        f'The data of this config is not complete: {len(faults)} of {len(required)} parts are '
        f'missing (relative paths start in {Path.cwd()}).\n{listing}\n\n'
        f'{_HELP.format(roots=roots)}{_HELP_IMAGENET if classification else _HELP_COCO}')
