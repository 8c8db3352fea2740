"""Which annotation files and image folders a config reads, and in which format."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from ..cli.data_root import iter_datasets
from ..cli.options import find_class


class Source(NamedTuple):
    """One innermost data set of a config.

    Attributes:
        label (str): For messages: 'train', or 'train 2' where a split has several data sets.
        split (str): 'train', 'val' or 'test'.
        config (dict): The data set's own part of the config, not a copy.
        kind (str): 'coco', 'voc', or '' for a format that is not checked.
        ann_file (Path): Annotation file; of VOC the list of image names.
        image_folder (Path): What file names are relative to.
        classes (tuple[str, ...] | str | None): As ``metainfo`` has them, or else the data set's
            class; whatever the user wrote, checked by nobody.
    """
    label: str
    split: str
    config: dict
    kind: str
    ann_file: Path
    image_folder: Path
    classes: Optional[Sequence[str]]

    @property
    def is_training(self) -> bool:
        """Whether MMDetection filters its images: not in ``test_mode``."""
        return not self.config.get('test_mode', False)


def _kind(cls) -> str:
    from mmdet.datasets import CocoDataset, XMLDataset
    for kind, base in (('coco', CocoDataset), ('voc', XMLDataset)):
        # A subclass that reads or filters in its own way (LVIS, panoptic ...) has another format.
        if isinstance(cls, type) and issubclass(cls, base) and all(
                getattr(cls, name) is getattr(base, name)
                for name in ('load_data_list', 'parse_data_info', 'filter_data')):
            return kind
    return ''


def iter_sources(cfg, splits: Sequence[str]) -> Iterator[Source]:
    """Yield the data sets of a config that MMDetection reads from this machine's disk.

    Args:
        cfg (Config): Config with ``{train,val,test}_dataloader``.
        splits (Sequence[str]): Which of 'train', 'val' and 'test'.

    Yields:
        Source: In the order of the config. Data sets of MMPretrain, and those on object storage
        (``backend_args``), are left out.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        leaves = list(iter_datasets(loader['dataset'])) if loader else []
        for number, leaf in enumerate(leaves, start=1):
            cls = find_class(leaf.get('type'), scope)
            if not leaf.get('ann_file') or leaf.get('backend_args') or (
                    not getattr(cls, '__module__', '').startswith('mmdet.') and not _is_mmdet(cls)):
                continue
            root = Path(leaf.get('data_root') or '').expanduser()
            prefix = leaf.get('data_prefix') or {}
            kind = _kind(cls)
            folder = prefix.get('sub_data_root' if kind == 'voc' else 'img', '')
            classes = (leaf.get('metainfo') or {}).get('classes')
            if classes is None:
                classes = (getattr(cls, 'METAINFO', None) or {}).get('classes')
            yield Source(
                label=split if len(leaves) == 1 else f'{split} {number}', split=split, config=leaf,
                kind=kind, ann_file=root / Path(leaf['ann_file']).expanduser(),
                image_folder=root / Path(folder).expanduser(), classes=classes)


def _is_mmdet(cls) -> bool:
    return any(base.__module__.startswith('mmdet.') for base in getattr(cls, '__mro__', ()))
