"""``tools/infer.py``: detect objects in pictures and videos, and write pictures and JSON."""
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Callable, Optional, Union

import numpy as np
import torch

from ..api.detector import Detector
from ..api.results import Detections
from ..errors import UserError
from ..fileio import write_atomically, write_text
from ..pipeline import ImageError
from .coco_results import RESULTS, CocoResults
from .configs import load_config
from .console import quiet_libraries
from .images import ImageFile, check_image, collect_images, readable
from .progress import image_progress
from .result_files import OutputNames, as_json, check_folder, write_picture, writing
from .tool import user_message
from .videos import Video, count_images, frame_name, video_writer


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


def _prepare(args) -> Detector:
    """Load the detector that the command line names, and say what it is."""
    detector = Detector(load_config(args.config, args.cfg_options), args.checkpoint, args.device,
                        args.amp, deploy=not args.no_deploy, compiled=args.compile)
    model = detector.model
    print(f'{type(model).__name__} of {readable(args.checkpoint)}; '
          f'{len(model.dataset_meta["classes"] or ())} classes, {model.names_from}; on '
          f'{next(model.parameters()).device}', flush=True)
    return detector


class _Work:
    """Does images and videos one by one, and writes what was found.

    Args:
        detector (Detector): Finds it.
        args (argparse.Namespace): Arguments of ``tools/infer.py``.
        files (list[ImageFile]): All images and videos.
        advance (Callable): Called after every image.
    """

    def __init__(self, detector: Detector, args, files: list[ImageFile],
                 advance: Callable[[], None]):
        self.detector, self.args, self.advance = detector, args, advance
        self.folder = Path(args.out_dir).expanduser()
        classes = detector.model.dataset_meta['classes'] or ()
        self.coco = CocoResults(classes, args.annotations) if args.coco else None
        self.names = OutputNames(self.folder, files)

    def _detect(self, image: Union[str, np.ndarray],
                name: str) -> tuple[Detections, Optional[np.ndarray]]:
        """What is found in an image, and the picture of it, if that is wanted."""
        read = self.detector.read(image, name)
        found, = self.detector.predict([read], self.args.score_thr)
        picture = None if self.args.no_pictures else found.draw(read.pixels)
        self.advance()
        return found, picture

    def image(self, file: ImageFile) -> str:
        """Do an image; returns what to say about it."""
        several = check_image(file.path, self.args.max_pixels)
        found, picture = self._detect(file.path, readable(file.path))
        if self.coco:
            self.coco.add({file.path: found})
        target = self.names(file)
        with writing(target):
            if not self.coco:
                write_text(target.with_suffix('.json'), found.to_json())
            if picture is not None:
                write_picture(target, picture)
        return (f'{found.image}{" (its first picture)" if several else ""}: {len(found)} objects '
                f'-> {self._place(target)}')

    def video(self, file: ImageFile) -> str:
        """Do a video; returns what to say about it."""
        name, video, frames, target = readable(file.path), Video(file.path), [], self.names(file)

        def detect(path: str) -> None:
            with nullcontext() if self.args.no_pictures else video_writer(path, video.rate) as draw:
                for number, image in enumerate(video):
                    found, picture = self._detect(image, frame_name(name, number))
                    frames.append(found)
                    if draw:
                        draw(picture)
            if self.coco:
                self.coco.add({frame_name(file.path, number): found
                               for number, found in enumerate(frames)})

        with writing(target):
            if self.args.no_pictures:
                detect('')
            else:
                write_atomically(target, detect)
            if not self.coco:
                write_text(target.with_suffix('.json'), as_json(dict(
                    video=name, height=frames[0].height, width=frames[0].width, fps=video.rate,
                    frames=[dict(frame=number, detections=found.to_dict()['detections'])
                            for number, found in enumerate(frames)])))
        return (f'{name}: {sum(map(len, frames))} objects in {len(frames)} images -> '
                f'{self._place(target)}')

    def _place(self, target: Path) -> str:
        """Where people find what was written for an input."""
        if not self.args.no_pictures:
            return readable(target)
        return readable(self.folder / RESULTS if self.coco else target.with_suffix('.json'))

    def all(self, files: list[ImageFile]) -> int:
        """Do all files, and tell of each; returns how many could not be done."""
        failed, seen = 0, set()
        for file in files:
            try:
                said = self.video(file) if file.is_video else self.image(file)
            except UserError:
                raise
            except Exception as error:
                failed += 1
                print(f'error: {readable(file.path)}: {_failure(error, seen)}', file=sys.stderr,
                      flush=True)
            else:
                print(said, flush=True)
        return failed

    def finish(self, is_whole: bool) -> None:
        """Write COCO results, if they are wanted; those of a part of the inputs as such."""
        files = self.coco.files() if self.coco else {}
        for name, content in files.items() if is_whole or files.get(RESULTS) else ():
            target = self.folder / (name if is_whole else f'unfinished_{name}')
            with writing(target):
                write_text(target, as_json(content))
            if not is_whole:
                print(f'{readable(target)} holds what had been done', file=sys.stderr, flush=True)


def _check_options(args) -> None:
    """Raise a UserError for options that make no sense."""
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
    if args.max_pixels < 1:
        raise UserError(f'--max-pixels is a number of pixels, not {args.max_pixels}.')
    if args.annotations is not None and not args.coco:
        raise UserError('--annotations numbers the images of COCO results: add --coco.')


def infer(args) -> int:
    """Detect objects in all images and videos, and write what was found.

    Args:
        args (argparse.Namespace): Arguments of ``tools/infer.py``.

    Returns:
        int: Exit code: 1 if an image or video could not be done, all others being done.

    Raises:
        UserError: If nothing can be done at all.
    """
    _check_options(args)
    folder = Path(args.out_dir).expanduser()
    quiet_libraries()
    found = collect_images(args.images, args.recursive, str(folder), with_videos=True)
    if not found.images:
        raise UserError('No image to work on:\n  ' + '\n  '.join(found.problems + found.skipped))
    check_folder(folder, found.images)
    detector = _prepare(args)
    for message in found.skipped:
        print(message, flush=True)
    for problem in found.problems:
        print(f'error: {problem}', file=sys.stderr, flush=True)
    total = sum(count_images(file.path) if file.is_video else 1 for file in found.images)
    with image_progress(total) as advance:
        work = _Work(detector, args, found.images, advance)
        try:
            failed = len(found.problems) + work.all(found.images)
        except BaseException:  # what was found before Ctrl-C may have taken hours
            work.finish(is_whole=False)
            raise
    work.finish(is_whole=True)
    if failed:
        print(f'error: {failed} could not be done, see above', file=sys.stderr)
    return 1 if failed else 0
