"""``tools/infer.py``: detect objects in pictures, and write pictures and JSON."""
import errno
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import mmcv
import numpy as np
import torch

from ..api.detector import Detector
from ..errors import UserError
from ..fileio import write_atomically
from ..pipeline import ImageError
from .configs import load_config
from .console import quiet_libraries
from .images import ImageFile, check_image, collect_images, readable
from .paths import check_writable_folder
from .tool import user_message


class OutputNames:
    """Names of output files: those of the images, told apart where two images share one.

    Args:
        folder (Path): Folder of the results.
        images (Iterable[ImageFile]): All images.
    """

    def __init__(self, folder: Path, images: Iterable[ImageFile]):
        self.folder = folder
        self._inputs = {os.path.realpath(image.path) for image in images}
        self._used = set()

    def __call__(self, image: ImageFile) -> Path:
        """Return the path of the picture for an image; its JSON has the same stem."""
        folder, stem, number = self.folder / image.name.parent, image.name.stem, 1
        while folder / stem in self._used or (
                os.path.realpath(folder / f'{stem}.jpg') in self._inputs):
            number += 1
            stem = f'{image.name.stem}_{number}'
        self._used.add(folder / stem)
        return folder / f'{stem}.jpg'


def _check_folder(folder: Path, images: list[ImageFile]) -> None:
    """Make the folder of the results, unless it is a place where they would do harm.

    Raises:
        UserError: A file, a folder that cannot be written, or one that holds the images.
    """
    among = next((image for image in images if os.path.realpath(
        os.path.dirname(image.path)) == os.path.realpath(folder)), None)
    if among is not None:
        raise UserError(f'--out-dir {readable(folder)} is the folder of {readable(among.path)}: '
                        'results would lie among the images. Name another one.')
    check_writable_folder(folder, '--out-dir')


def _failure(error: Exception, seen: set[str]) -> str:
    """Describe why an image could not be done; what looks like a defect once with its traceback."""
    if isinstance(error, ImageError):
        return str(error)
    text = f'{type(error).__name__}: {(str(error).strip().splitlines() or ["no message"])[0]}'
    out_of_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        'allocate' in text)
    if user_message(error) is None and not out_of_memory and text not in seen:
        seen.add(text)
        traceback.print_exception(type(error), error, error.__traceback__)
    return text


def _write(target: Path, picture: np.ndarray, text: str) -> None:
    """Write picture, (H, W, 3) in RGB, and JSON.

    Raises:
        ImageError: If the image's name has no room for the suffix of the JSON.
        UserError: If the disk is full, say: the other images would fare no better.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target.with_suffix('.json'),
                         lambda file: Path(file).write_text(text, encoding='utf-8'))
        write_atomically(target, lambda file: mmcv.imwrite(picture[..., ::-1], file))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ImageError('its name is too long for a result') from error
        raise UserError(f'{readable(target)} cannot be written: {error.strerror}.') from error


def _prepare(args) -> Detector:
    """Load the detector that the command line names, and say what it is."""
    detector = Detector(load_config(args.config, args.cfg_options), args.checkpoint, args.device,
                        args.amp, deploy=not args.no_deploy, compiled=args.compile)
    model = detector.model
    print(f'{type(model).__name__} of {readable(args.checkpoint)}; '
          f'{len(model.dataset_meta["classes"] or ())} classes, {model.names_from}; on '
          f'{next(model.parameters()).device}', flush=True)
    return detector


def infer(args) -> int:
    """Detect objects in all images and write what was found.

    Args:
        args (argparse.Namespace): Arguments of ``tools/infer.py``.

    Returns:
        int: Exit code: 1 if an image could not be done, all others being done.

    Raises:
        UserError: If nothing can be done at all.
    """
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
    if args.max_pixels < 1:
        raise UserError(f'--max-pixels is a number of pixels, not {args.max_pixels}.')
    folder = Path(args.out_dir).expanduser()
    quiet_libraries()
    found = collect_images(args.images, args.recursive, str(folder))
    if not found.images:
        raise UserError('No image to work on:\n  ' + '\n  '.join(found.problems + found.skipped))
    _check_folder(folder, found.images)
    detector = _prepare(args)
    for message in found.skipped:
        print(message, flush=True)
    for problem in found.problems:
        print(f'error: {problem}', file=sys.stderr, flush=True)
    names, failed, seen = OutputNames(folder, found.images), len(found.problems), set()
    for image in found.images:
        name = readable(image.path)
        try:
            several = check_image(image.path, args.max_pixels)
            read = detector.read(image.path)
            result, = detector.predict([read], args.score_thr)
            text, picture = result.to_json(), result.draw(read.pixels)
            target = names(image)
            _write(target, picture, text)
        except UserError:
            raise
        except Exception as error:
            failed += 1
            print(f'error: {name}: {_failure(error, seen)}', file=sys.stderr, flush=True)
            continue
        print(f'{name}{" (its first picture)" if several else ""}: {len(result)} '
              f'objects -> {readable(target)}', flush=True)
    if failed:
        print(f'error: {failed} could not be done, see above', file=sys.stderr)
    return 1 if failed else 0
