"""Which classes the data sets of a config number, and where the numbers come from."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.fileio import list_from_file

from ..cli.data_root import class_folder, iter_datasets
from ..cli.options import find_class
from ..type_names import type_name
from .sources import iter_sources


@dataclass
class LabelSource:
    """One data set of a config, below any wrapper.

    Attributes:
        split (str): 'train', 'val' or 'test'.
        config (dict): Config of the data set itself, not a copy.
        kind (str): How it numbers classes. 'coco': in the order of the categories of its annotation
            file. 'voc': in the order of ``classes``. 'folders': in the order of the sorted names of
            folders. '': as its class does it, which is not known here.
        path (Path, optional): Its annotation file, or the folder of class folders.
        classes: What the config, or else the class, gives as names, as it stands there; a file of
            names is read.
        labels (tuple[str], optional): Names in the order of their labels, once that is known. Where
            the config is wrong, what it is thought to mean.
        root (Path, optional): Folder of the images; of VOC that of its XML files, too.
        agrees (bool): Whether ``classes`` and data agree, so that others can be compared with it.
    """
    split: str
    config: dict
    kind: str
    path: Optional[Path]
    classes: Any
    labels: Optional[tuple[str, ...]] = None
    agrees: bool = False
    root: Optional[Path] = None

    @property
    def type_name(self) -> str:
        """Name of its class."""
        return type_name(self.config.get('type'))

    @property
    def names_itself(self) -> bool:
        """Whether the config gives names, so that those of the class do not matter."""
        return 'classes' in (self.config.get('metainfo') or {})

    @property
    def where(self) -> str:
        """What a message calls it."""
        return f'{self.split}_dataloader' + (f' ({self.path})' if self.path is not None else '')


def _names(classes):
    """Read a file of names, as MMEngine does, and turn a list into a tuple."""
    if isinstance(classes, str) and Path(classes).is_file():
        return tuple(list_from_file(classes))
    return tuple(classes) if isinstance(classes, (list, tuple)) else classes


def _classification_sources(cfg, splits: Sequence[str]) -> Iterator[LabelSource]:
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for leaf in iter_datasets(loader['dataset']) if loader else []:
            cls = find_class(leaf.get('type'), cfg.get('default_scope') or 'mmengine')
            names = (leaf.get('metainfo') or {}).get('classes')
            if names is None:
                names = (getattr(cls, 'METAINFO', None) or {}).get('classes')
            folder = class_folder(leaf)
            yield LabelSource(split, leaf, 'folders' if folder else '', folder, _names(names))


def label_sources(cfg, splits: Sequence[str]) -> list[LabelSource]:
    """Describe the data sets of some splits of a config, in the order of the splits."""
    return [LabelSource(source.split, source.config, source.kind, source.ann_file,
                        _names(source.classes), root=source.image_folder)
            for source in iter_sources(cfg, splits)] or list(_classification_sources(cfg, splits))
