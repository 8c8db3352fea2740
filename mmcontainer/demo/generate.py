"""Write the demo data set to disk, completely or not at all.

Layout, standard COCO apart from the manifest::

    OUT/
      manifest.json                     the parameters; written last, marks the set as complete
      annotations/instances_train.json  boxes, masks (RLE), areas
      annotations/instances_val.json
      train/000001.jpg ...
      val/000001.jpg ...
"""
import contextlib
import functools
import io
import json
import numbers
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, Union

import cv2
import numpy as np
from mmengine.utils import track_iter_progress
from pycocotools import mask as rle

from ..errors import UserError
from .scenes import CLASSES, PlacedShape, paint_scene, plan_scene

_FORMAT = 'mmcontainer-shapes'
_VERSION = 1  # raise it whenever the same parameters give other pixels or annotations
SPLITS = ('train', 'val')
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class ShapesParams:
    """Everything the files depend on.

    Args:
        num_train: Number of training images, at least 1.
        num_val: Number of validation images, at least 1.
        size: Side of the square images in pixels, 64 to 2048.
        seed: Seed, 0 to 2**32 - 1. An image depends on seed, split, index and size only, so the
            validation images stay the same when ``num_train`` changes.

    Raises:
        ValueError: If a value is outside of its range or not an integer.
    """
    num_train: int = 2000
    num_val: int = 200
    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = dict(num_train=(1, 999999), num_val=(1, 999999), size=(64, 2048),
                      seed=(0, 2**32 - 1))
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not whole or not low <= value <= high:
                raise ValueError(
                    f'{name} must be an integer from {low} to {high}, but it is {value!r}')

    def num_images(self, split: str) -> int:
        return self.num_train if split == 'train' else self.num_val


def _annotation(shape: PlacedShape) -> dict:
    """COCO entries that follow from the visible mask alone; ids are filled in later."""
    encoded = rle.encode(np.asfortranarray(shape.mask.astype(np.uint8)))
    return dict(
        category_id=shape.label + 1,
        iscrowd=0,
        area=int(rle.area(encoded)),
        bbox=[float(value) for value in rle.toBbox(encoded)],  # x, y, width, height
        # RLE and not polygons: holes, several parts and single pixels stay exact.
        segmentation=dict(size=[int(side) for side in encoded['size']],
                          counts=encoded['counts'].decode('ascii')))


def _make_image(task: tuple[str, int], params: ShapesParams, root: str) -> list[dict]:
    """Write one picture and return its annotations; the only code that runs in the workers."""
    split, index = task
    rng = np.random.RandomState([params.seed, SPLITS.index(split), index])
    shapes = plan_scene(rng, params.size)
    picture = paint_scene(rng, shapes, params.size)
    done, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise OSError('OpenCV could not encode a JPEG picture')
    Path(root, split, _file_name(index)).write_bytes(data.tobytes())
    return [_annotation(shape) for shape in shapes]


def _file_name(index: int) -> str:
    return f'{index + 1:06d}.jpg'


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    cv2.setNumThreads(0)


@contextlib.contextmanager
def _ordered_map(num_workers: int) -> Iterator:
    """``map`` in this process, or the same over worker processes, results in order."""
    if num_workers == 1:
        yield map
        return
    # Its workers are asked to end. multiprocessing.Pool would send them SIGTERM, which the handler
    # that tools have for it, and that forks inherit, misses if it comes just before a worker waits.
    executor = ProcessPoolExecutor(num_workers, initializer=_start_worker)
    try:
        yield functools.partial(executor.map, chunksize=8)
    except BrokenProcessPool as error:
        raise UserError(
            f'One of {num_workers} processes that draw pictures was killed, which systems do when '
            'memory is short. Nothing was written: run this again with fewer (--workers 1).'
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _coco_dict(split: str, params: ShapesParams, per_image: list[list[dict]]) -> dict:
    images, annotations = [], []
    for index, found in enumerate(per_image):
        images.append(dict(id=index + 1, file_name=_file_name(index), width=params.size,
                           height=params.size, license=1))
        for entry in found:
            annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **entry))
    return dict(
        # No date: it would make the bytes depend on the day.
        info=dict(description=f'Generated shapes, {split} split', version=str(_VERSION),
                  contributor='mmcontainer', seed=params.seed),
        licenses=[dict(id=1, name='CC0 1.0',
                       url='https://creativecommons.org/publicdomain/zero/1.0/')],
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name, supercategory='shape')
                    for i, name in enumerate(CLASSES)])


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(',', ':'), sort_keys=True) + '\n')


def _fill(root: Path, params: ShapesParams, num_workers: int) -> None:
    """Write the whole data set into the empty folder ``root``."""
    tasks = [(split, i) for split in SPLITS for i in range(params.num_images(split))]
    for folder in ('annotations', *SPLITS):
        (root / folder).mkdir()
    make = functools.partial(_make_image, params=params, root=str(root))
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()  # no bar in a log file
    with _ordered_map(num_workers) as ordered_map:
        found = list(track_iter_progress((ordered_map(make, tasks), len(tasks)), file=bar))
    for split in SPLITS:
        per_image = [entries for task, entries in zip(tasks, found) if task[0] == split]
        _write_json(root / 'annotations' / f'instances_{split}.json',
                    _coco_dict(split, params, per_image))
    _write_json(root / 'manifest.json', _manifest(params))


def _manifest(params: ShapesParams) -> dict:
    return dict(format=_FORMAT, version=_VERSION, params=asdict(params))


def _read_manifest(root: Path) -> Optional[dict]:
    """The manifest of a folder, None if it holds none of ours."""
    try:
        manifest = json.loads((root / 'manifest.json').read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get('format') == _FORMAT
    return manifest if ours else None


def _is_intact(root: Path, params: ShapesParams) -> bool:
    """Check that all files of a complete set are still there, by name."""
    for split in SPLITS:
        expected = {_file_name(i) for i in range(params.num_images(split))}
        folder = root / split
        if not folder.is_dir() or not expected <= set(os.listdir(folder)):
            return False
        if not (root / 'annotations' / f'instances_{split}.json').is_file():
            return False
    return True


def _is_reusable(root: Path, params: ShapesParams, overwrite: bool) -> bool:
    """Decide what to do about what stands at ``root``.

    Returns:
        True if it is the wanted data set, False if a new one shall be put there.

    Raises:
        FileExistsError: If something else is there that must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _read_manifest(root) if root.is_dir() else None
    if found is None:
        raise FileExistsError(
            f'{root} exists and is not a data set made by this generator; it is left as it is. '
            'Give another folder, or move it away yourself')
    if found == _manifest(params):
        if _is_intact(root, params):
            return True
        reason = 'misses files that were generated'
    else:
        reason = (f'was generated with {found.get("params")} (version {found.get("version")}), but '
                  f'{asdict(params)} (version {_VERSION}) is wanted')
    if not overwrite:
        raise FileExistsError(
            f'the data set in {root} {reason}. Give another folder, or generate it anew with '
            f'--overwrite (in Python: overwrite=True)')
    return False


def _put_in_place(ready: Path, root: Path, spare: Path) -> None:
    """Rename ``ready`` to ``root``; an older data set there moves to ``spare`` first."""
    if root.exists() and any(root.iterdir()):
        os.replace(root, spare)
    try:
        os.replace(ready, root)
    except BaseException:
        if spare.exists():
            os.replace(spare, root)
        raise


def generate_shapes(out: Union[str, Path], params: Optional[ShapesParams] = None,
                    num_workers: int = 1, overwrite: bool = False) -> bool:
    """Generate the data set, or find that it is there already.

    The files appear under ``out`` only when all of them are written: the work is done in a hidden
    folder beside it, which is removed on any error and on Ctrl-C. The same parameters give the same
    bytes for any number of workers (with the same versions of NumPy and OpenCV).

    Args:
        out: Folder to create; its parents are created too.
        params: What to generate, by default ``ShapesParams()``.
        num_workers: Processes, at least 1 (1: work in this process).
        overwrite: Replace a data set that this generator made with other parameters. Any other
            content of ``out`` is never replaced.

    Returns:
        True if files were written, False if the same data set was there.

    Raises:
        ValueError: If ``num_workers`` is not a positive integer.
        FileExistsError: If ``out`` holds something else.
        UserError: If one of the processes was killed.
    """
    if not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f'num_workers must be a positive integer, but it is {num_workers!r}')
    params = params or ShapesParams()
    root = Path(out).resolve()
    if _is_reusable(root, params, overwrite):
        print(f'{out}: {params.num_train} + {params.num_val} images are there already')
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{root.name}.tmp-', dir=root.parent))
    try:
        ready = temporary / 'new'
        ready.mkdir()
        _fill(ready, params, num_workers)
        _put_in_place(ready, root, spare=temporary / 'old')
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f'{out}: {params.num_train} training and {params.num_val} validation images written')
    return True
