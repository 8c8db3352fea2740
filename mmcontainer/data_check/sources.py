"""The data sets of a config: which files they read, and how they number classes."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from mmengine.fileio import list_from_file

from ..config_nodes import find_class, iter_datasets, join_path
from ..type_names import type_name
from .annotations import Annotations, read_annotations, read_voc
from .files import class_folder


@dataclass
class Source:
    """One data set of a config, below any wrapper.

    Attributes:
        label (str): For messages: 'train', or 'train 2' where a split has several data sets.
        split (str): 'train', 'val' or 'test'.
        config (dict): The data set's own part of the config, not a copy.
        kind (str): How it numbers classes. 'coco': in the order of the categories of its annotation
            file. 'voc': in the order of ``classes``. 'folders': in the order of the sorted names of
            folders. 'maps': by the values of its segmentation maps. '': by rules of its class,
            which are not checked.
        path (Path, optional): Its annotation file, of VOC the list of image names, of 'folders' the
            folder of class folders.
        classes: Names as the config, or else the class, gives them, checked by nobody; a file of
            names is read.
        image_folder (Path, optional): The folder that file names are relative to.
        labels (tuple[str], optional): Names in the order of their labels, once that is known. Where
            the config is wrong, those that are probably meant.
        agrees (bool): Whether ``classes`` and data agree, so that others can be compared with it.
        cls: Its class, of kind 'maps' only.
    """
    label: str
    split: str
    config: dict
    kind: str
    path: Optional[Path]
    classes: Any
    image_folder: Optional[Path] = None
    labels: Optional[tuple[str, ...]] = None
    agrees: bool = False
    cls: Any = None

    @cached_property
    def annotations(self) -> Optional[Annotations]:
        """The content of its file, None for a kind of data set whose files are not checked.

        Raises:
            UserError: If it is not in the layout of its kind.
            OSError: If it cannot be read.
        """
        if self.kind == 'voc':
            return read_voc(self.path, self.image_folder, self.config)
        return read_annotations(self.path) if self.kind == 'coco' else None

    @property
    def type_name(self) -> str:
        """Name of its class."""
        return type_name(self.config.get('type'))

    @property
    def names_itself(self) -> bool:
        """True if the config gives names, so that those of the class do not matter."""
        return 'classes' in (self.config.get('metainfo') or {})

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f'{self.split}_dataloader' + (f' ({self.path})' if self.path is not None else '')


def _kind(cls) -> str:
    from mmdet.datasets import CocoDataset, XMLDataset
    for kind, base in (('coco', CocoDataset), ('voc', XMLDataset)):
        # A subclass that reads or filters in its own way (LVIS, panoptic ...) has another format.
        if isinstance(cls, type) and issubclass(cls, base) and all(
                getattr(cls, name) is getattr(base, name)
                for name in ('load_data_list', 'parse_data_info', 'filter_data')):
            return kind
    return ''


def _names(config: dict, cls) -> Any:
    """Class names of a data set; a file of names is read, as MMEngine does."""
    classes = (config.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = (getattr(cls, 'METAINFO', None) or {}).get('classes')
    if isinstance(classes, str) and Path(classes).is_file():
        return tuple(list_from_file(classes))
    return tuple(classes) if isinstance(classes, (list, tuple)) else classes


def _detection_source(label: str, split: str, config: dict, cls) -> Optional[Source]:
    if not config.get('ann_file') or config.get('backend_args') or not any(
            base.__module__.startswith('mmdet.') for base in getattr(cls, '__mro__', ())):
        return None
    kind, root = _kind(cls), config.get('data_root')
    prefix = config.get('data_prefix') or {}
    folder = prefix.get('sub_data_root' if kind == 'voc' else 'img', '')
    return Source(label, split, config, kind, join_path(root, config['ann_file']),
                  _names(config, cls), join_path(root, folder))


def _is_segmentation(config: dict, cls) -> bool:
    """Tell whether a data set is MMSegmentation's, with maps on this machine's disk."""
    return not config.get('backend_args') and any(
        base.__name__ == 'BaseSegDataset' for base in getattr(cls, '__mro__', ()))


def _other_source(label: str, split: str, config: dict, cls) -> Source:
    if _is_segmentation(config, cls):
        return Source(label, split, config, 'maps', None, _names(config, cls), cls=cls)
    folder = class_folder(config)
    return Source(label, split, config, 'folders' if folder else '', folder, _names(config, cls))


def _each(cfg, splits: Sequence[str]) -> Iterator[tuple[str, str, dict, Any]]:
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        leaves = list(iter_datasets(loader['dataset'])) if loader else []
        for number, leaf in enumerate(leaves, start=1):
            yield (split if len(leaves) == 1 else f'{split} {number}', split, leaf,
                   find_class(leaf.get('type'), cfg.get('default_scope') or 'mmengine'))


def data_sources(cfg, splits: Sequence[str]) -> list[Source]:
    """Describe the data sets of a config that are read from this machine's disk.

    Args:
        cfg (Config): Config with ``{train,val,test}_dataloader``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test'.

    Returns:
        list[Source]: In the order of the splits; those of MMDetection, or of the other libraries
        where there is none of MMDetection. Data sets on object storage (``backend_args``) are left
        out.
    """
    found = [_detection_source(*each) for each in _each(cfg, splits)]
    return [source for source in found if source] or [
        _other_source(*each) for each in _each(cfg, splits)]
