#!/usr/bin/env python
"""Detect objects with a file of tools/export_onnx.py; copy this script to wherever it is to run.

It needs: pip install numpy onnxruntime opencv-python-headless    (or pillow, but not for videos)

    python onnx_detect.py detector.onnx photo.jpg folder clip.mp4

    from onnx_detect import Detector
    result = Detector('detector.onnx')('photo.jpg')    # or pixels of (H, W, 3), RGB, uint8
    for box, score, label in zip(result.boxes, result.scores, result.labels):
        print(result.classes[label], score, box)

image -> resize -> onnxruntime -> scale boxes back, paste masks -> Result -> picture, JSON, COCO
"""
import argparse
import colorsys
import io
import itertools
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np

FORMAT = 1  # of the metadata
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
MAX_PIXELS = 89_478_485  # of an image; Pillow's own limit


class UserError(Exception):
    """A mistake that stops everything; the text says what helps."""


class ImageError(Exception):
    """One image or video cannot be done; others may be fine."""


class OpenCV:
    """What OpenCV does for images, which are arrays of (H, W, 3), RGB, uint8."""

    def __init__(self):
        os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))
        import cv2
        self.cv2 = cv2

    def decode(self, content: bytes) -> np.ndarray:
        image = self.cv2.imdecode(np.frombuffer(content, np.uint8), self.cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError('OpenCV does not know its format')
        return self.cv2.cvtColor(image, self.cv2.COLOR_BGR2RGB)

    def resize(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return self.cv2.resize(np.ascontiguousarray(image), size)  # bilinear

    def letter(self, image: np.ndarray, text: str, corner: tuple[int, int],
               height: int) -> np.ndarray:
        for colour, width in (((0, 0, 0), height // 4), ((255, 255, 255), height // 12)):
            self.cv2.putText(image, text, (corner[0], corner[1] + height), 0, height / 25, colour,
                             max(1, width), self.cv2.LINE_AA)
        return image

    def encode(self, image: np.ndarray) -> bytes:
        return self.cv2.imencode('.jpg', image[..., ::-1])[1].tobytes()


class Pillow:
    """The same with Pillow."""

    def __init__(self):
        from PIL import Image, ImageDraw, ImageFont, ImageOps
        Image.MAX_IMAGE_PIXELS = None  # decode has a limit of its own
        self.Image, self.Draw, self.upright = Image, ImageDraw.Draw, ImageOps.exif_transpose
        self.font = ImageFont.load_default

    def decode(self, content: bytes) -> np.ndarray:
        image = self.Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f'{image.width} x {image.height} pixels are too many')
        image = self.upright(image)
        if image.mode == 'LA':  # as mmcv does it: black would hide black objects
            canvas = self.Image.new('RGB', image.size, (124, 117, 104))
            canvas.paste(image.convert('RGBA'), mask=image.getchannel('A'))
            return np.array(canvas)
        return np.array(image.convert('RGB'))

    def resize(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.array(self.Image.fromarray(image).resize(size, self.Image.Resampling.BILINEAR))

    def letter(self, image: np.ndarray, text: str, corner: tuple[int, int],
               height: int) -> np.ndarray:
        canvas = self.Image.fromarray(image)
        self.Draw(canvas).text(corner, text, 'white', self.font(height), stroke_fill='black',
                               stroke_width=height // 8)
        return np.array(canvas)

    def encode(self, image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        self.Image.fromarray(image).save(buffer, 'JPEG', quality=95)
        return buffer.getvalue()


def load_library(wanted: str) -> Union[OpenCV, Pillow]:
    """Load the library that resized the images of the training, 'cv2' or 'pillow', else the other.

    Raises:
        UserError: Neither is there.
    """
    kinds = dict(cv2=OpenCV, pillow=Pillow)
    for name in sorted(kinds, key=lambda name: name != wanted):
        with suppress(ImportError):
            library = kinds[name]()
            if name != wanted:
                print(f'note: without {wanted}, which the model was tested with, {name} resizes '
                      'the images, and boxes move a little', file=sys.stderr)
            return library
    raise UserError('Images need OpenCV or Pillow: pip install opencv-python-headless')


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int,
               threshold: float) -> np.ndarray:
    """Stretch a mask over its box, bilinear between pixel centres, as MMDetection's FCNMaskHead.

    Args:
        mask (np.ndarray): (h, w), probabilities; outside of it they are 0.
        box (np.ndarray): (4, ), float32, x1 y1 x2 y2 in pixels of the image.
        height (int): Of the image; ``width`` likewise.
        threshold (float): Pixels with at least this probability belong to the object.

    Returns:
        np.ndarray: (height, width), bool.
    """
    weights, region = [], []
    for low, high, length, size in ((box[1], box[3], height, mask.shape[0]),
                                    (box[0], box[2], width, mask.shape[1])):
        start = max(0, int(np.floor(low)) - 1)
        stop = max(start, min(length, int(np.ceil(high)) + 1))
        centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
        with np.errstate(divide='ignore', invalid='ignore'):
            centres = (centres - low) / (high - low) * 2 - 1  # the box is from -1 to 1
        centres[np.isinf(centres)] = 0  # a box without width
        centres = ((centres + 1) * size - 1) / 2  # in pixels of the mask
        # Each pixel of the mask counts up to a distance of 1: that is linear interpolation.
        weights.append(np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size, dtype='f'))))
        region.append(slice(start, stop))
    pasted = np.zeros((height, width), bool)
    pasted[tuple(region)] = weights[0] @ mask.astype(np.float32) @ weights[1].T >= threshold
    return pasted


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask, (H, W), bool, into COCO's run-length code, as pycocotools reads it."""
    pixels = mask.ravel(order='F')  # column by column, in runs of 0 and 1 by turns, 0 first
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff([0, *([0] if pixels[0] else []), *ends, pixels.size])
    runs[3:] -= runs[1:-2].copy()  # from the last run but one, which is often similar
    text = []
    for value in runs.tolist():
        more = True
        while more:  # 5 bits in a letter, the lowest first; a sixth says that there are more
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return dict(size=list(mask.shape), counts=''.join(text))


@dataclass
class Result:
    """The objects that were found in an image, best first.

    Attributes:
        height: Of the image, in pixels; ``width`` likewise.
        boxes: (N, 4), float32, x1 y1 x2 y2 in pixels of the image.
        scores: (N, ), float32, from 0 to 1.
        labels: (N, ), int64, places in ``classes``.
        classes: Names.
        box_masks: (N, 28, 28), probabilities in each box, or None.
        mask_thr: The probability from which on a pixel belongs to the object.
    """
    height: int
    width: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    box_masks: Optional[np.ndarray] = None
    mask_thr: float = 0.5

    def mask(self, index: int) -> np.ndarray:
        """Pixels of an object: (height, width), bool."""
        return paste_mask(self.box_masks[index], self.boxes[index], self.height, self.width,
                          self.mask_thr)

    def detections(self) -> list[dict[str, Any]]:
        """Plain data for JSON, as tools/infer.py writes them."""
        found = []
        for index, label in enumerate(self.labels.tolist()):
            found.append({'label': label, 'class': self.classes[label],
                          'score': round(self.scores[index].item(), 6),
                          'bbox': [round(value, 3) for value in self.boxes[index].tolist()]})
            if self.box_masks is not None:
                found[-1]['mask'] = encode_mask(self.mask(index))
        return found


class Detector:
    """A detector in an ONNX file, ready to run.

    Args:
        path: File that tools/export_onnx.py wrote.
        providers: Names of onnxruntime's; its GPU if it has one, else the CPU.

    Raises:
        UserError: No such file, another kind of file, or a package is missing.
    """

    def __init__(self, path: Union[str, Path], providers: Optional[Sequence[str]] = None):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f'{error}: pip install onnxruntime') from error
        if not os.path.isfile(path):
            raise UserError(f'{path}: there is no such file.')
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        providers = providers or [name for name in onnxruntime.get_available_providers()
                                  if name in ('CUDAExecutionProvider', 'CPUExecutionProvider')]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers)
        except Exception as error:  # onnxruntime's have no class in common
            raise UserError(f'{path} is no ONNX file that onnxruntime {onnxruntime.__version__} '
                            f'can load ({reason(error)}). Export it again, or: pip install -U '
                            'onnxruntime') from error
        self.metadata = read_metadata(path, self._session)
        self.classes = self.metadata['classes']
        self.library = load_library(self.metadata['resize']['backend'])

    def read(self, path: Union[str, Path]) -> np.ndarray:
        """Decode an image file: (H, W, 3), RGB, uint8, turned upright as EXIF says.

        Raises:
            ImageError: It cannot be read, or is truncated.
        """
        try:
            content = Path(path).read_bytes()
            if not content:
                raise ValueError('the file is empty')
            if is_truncated(content):
                raise ValueError('truncated, its data are not complete')
            return self.library.decode(content)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise all kinds
            raise ImageError(f'cannot be read as an image ({reason(error)})') from error

    def __call__(self, image: Union[str, Path, np.ndarray], score_thr: float = 0) -> Result:
        """Detect objects.

        Args:
            image: A file, or pixels of (H, W, 3), RGB, uint8.
            score_thr: Leave out objects with a lower score.

        Raises:
            ImageError: The file cannot be read, or the image is too thin to be resized.
            ValueError: The array is no image.
        """
        if not isinstance(image, np.ndarray):
            image = self.read(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f'expected pixels of (H, W, 3), RGB, uint8, not {image.dtype} of '
                             f'{image.shape}')
        (height, width), (rows, columns) = image.shape[:2], self.resized_size(*image.shape[:2])
        names = [output.name for output in self._session.get_outputs()]
        outs = self._session.run(names, {'images': self.prepare(image)})
        outs = {name: out[0] for name, out in zip(names, outs)}
        boxes, scores = outs['dets'][:, :4], outs['dets'][:, 4]
        boxes = boxes * np.float32([1 / (columns / width), 1 / (rows / height)] * 2)
        keep = (outs['labels'] >= 0) & (scores >= score_thr)
        if self.metadata['size'] is not None:  # boxes may lie in the padding
            boxes = boxes.clip(0, np.float32([width, height] * 2))
            keep &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind='stable')]
        masks = outs['masks'][order] if 'masks' in outs else None
        return Result(height, width, boxes[order], scores[order], outs['labels'][order],
                      self.classes, masks, self.metadata['mask_thr'])

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, by mmcv's rule.

        An image must also fit into a file of a fixed size; the rest of that is padded.

        Raises:
            ImageError: One of them would be 0.
        """
        scale, size = self.metadata['resize']['scale'], self.metadata['size']
        if not self.metadata['resize']['keep_ratio']:
            return tuple(size or scale[::-1])
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
        if size is not None:
            factor = min(factor, size[0] / height, size[1] / width)
        rows, columns = int(height * factor + 0.5), int(width * factor + 0.5)
        if not rows or not columns:
            raise ImageError(f'{width} x {height} pixels are too thin to be resized')
        return rows, columns

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The input of the file: (B, H, W, 3), uint8, with the resized image in the first place."""
        rows, columns = self.resized_size(*image.shape[:2])
        height, width = self.metadata['size'] or (rows, columns)
        inputs = np.empty((self.metadata['batch'] or 1, height, width, 3), np.uint8)
        inputs[:] = self.metadata.get('pad', 0)
        inputs[0, :rows, :columns] = self.library.resize(image, (columns, rows))
        return inputs

    def draw(self, image: np.ndarray, result: Result) -> np.ndarray:
        """Draw a result on a copy of its image, (H, W, 3), RGB, uint8."""
        image, longer = image.copy(), max(image.shape)
        line, height = max(2, longer // 400), max(12, longer // 60)
        for index in reversed(range(len(result.boxes))):  # the best one on top
            label = result.labels[index]
            colour = 255 * np.array(colorsys.hsv_to_rgb(label * 0.618 % 1, 0.9, 0.9))
            if result.box_masks is not None:
                mask = result.mask(index)
                image[mask] = (0.6 * image[mask] + 0.4 * colour).astype(np.uint8)
            x1, y1, x2, y2 = result.boxes[index].clip(0).round().astype(int).tolist()
            inside = (slice(y1 + line, max(0, y2 - line)), slice(x1 + line, max(0, x2 - line)))
            pixels = image[inside].copy()
            image[y1:y2, x1:x2] = colour
            image[inside] = pixels
            text = f'{result.classes[label]}: {result.scores[index]:.2f}'
            corner = min(x1, result.width - len(text) * height // 2), y1 - height - 2 * line
            image = self.library.letter(image, text, (max(0, corner[0]), max(0, corner[1])), height)
        return image


def read_metadata(path: Union[str, Path], session: Any) -> dict[str, Any]:
    """What tools/export_onnx.py noted in a file: classes, resize rule, sizes, thresholds.

    Raises:
        UserError: It is another kind of ONNX file, or one that this script cannot run.
    """
    text = session.get_modelmeta().custom_metadata_map.get('mmcontainer')
    outputs = {output.name for output in session.get_outputs()}
    if text is None or not {'dets', 'labels'} <= outputs:
        raise UserError(f'{path} was not written by tools/export_onnx.py, which notes classes and '
                        'sizes: python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx')
    metadata = json.loads(text)
    if metadata['format'] != FORMAT:
        raise UserError(f'{path} is of format {metadata["format"]}, and this script reads format '
                        f'{FORMAT}: take the onnx_detect.py that lay beside the export_onnx.py '
                        f'which wrote it (versions: {metadata.get("versions")}).')
    if metadata['resize']['interpolation'] != 'bilinear':
        raise UserError(f'{path} wants {metadata["resize"]["interpolation"]} interpolation, and '
                        'this script only does bilinear: change its functions resize().')
    return metadata


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; OpenCV would fill up with grey."""
    if content[:2] == b'\xff\xd8':
        return content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')  # end, start of the pixels
    return content[:4] == b'\x89PNG' and b'IEND' not in content


def reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_video(path: Path) -> tuple[float, Iterator[np.ndarray]]:
    """Images per second of a video, and its images, (H, W, 3), RGB, uint8.

    Raises:
        ImageError: It cannot be read; raised by the iterator if it ends early.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImageError('videos need OpenCV: pip install opencv-python-headless') from error
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # our messages are enough
    video = cv2.VideoCapture(str(path))
    stated, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)

    def images() -> Iterator[np.ndarray]:
        for number in itertools.count():
            is_read, image = video.read()
            if is_read:
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            elif number < max(1, 0.98 * stated - 2):  # some formats state no exact number
                raise ImageError(f'no video, or a broken one: {number} of {max(0, stated):.0f} '
                                 'images can be read')
            else:
                return

    return rate if 0 < rate < 1000 else 25., images()


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path that becomes the target at the end, and vanishes if there is an error."""
    path = target.with_name(f'.unfinished-{secrets.token_hex(4)}{target.suffix}')
    try:
        yield path
        os.replace(path, target)
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def write_json(target: Path, content: Any) -> None:
    """Write a file of JSON."""
    with whole_file(target) as path:
        path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding='utf-8')


@contextmanager
def video_writer(target: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends an image, (H, W, 3), RGB, uint8, to a new MP4."""
    import cv2
    with whole_file(target) as path:
        video, number = cv2.VideoWriter(), itertools.count()

        def write(image: np.ndarray) -> None:
            if not video.isOpened() and not video.open(
                    str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, image.shape[1::-1]):
                raise UserError('This OpenCV writes no MP4: pip install opencv-python-headless, '
                                'or add --no-pictures.')
            video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            next(number)

        yield write
        video.release()
        if cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) != next(number):
            raise UserError(f'{readable(target)} could not be written completely: is the disk '
                            'full? Free some space, or add --no-pictures.')


def readable(path: Path) -> str:
    r"""A path as valid Unicode: bytes that are no UTF-8 become ``\xe9``, for example."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def find_files(names: Sequence[str], recursive: bool,
               results: Path) -> tuple[dict[Path, Path], list[str]]:
    """Images and videos that are meant by names of files and folders, and complaints.

    Returns:
        tuple: The files, each once, with their names among the results, 'b/1.jpg' for 1.jpg in the
        sub-folder b of a folder that was named; what is in ``results`` is none of them.
    """
    found, problems = {}, []
    for top in map(Path, names):
        try:
            inside = sorted(top.rglob('*') if recursive else top.iterdir()) if top.is_dir() else ()
        except OSError as error:
            problems.append(f'{readable(top)}: {error.strerror}')
            continue
        files = [top] if top.is_file() else [
            path for path in inside if path.suffix.lower() in IMAGES + VIDEOS and path.is_file()
            and results.resolve() not in path.resolve().parents]
        for path in files:
            found.setdefault(path.resolve(), (path, path.relative_to(top) if top.is_dir()
                                              else Path(path.name)))
        if not files:
            problems.append(f'{readable(top)}: ' + (
                'a folder without images or videos (--recursive enters folders inside of it)'
                if top.is_dir() else 'there is no such file or folder'))
    return dict(found.values()), problems


class CocoResults:
    """Gathers detections as COCO results: ``COCO(annotations).loadRes('predictions.json')``.

    Args:
        classes: Names of the classes.
        annotations: COCO file whose numbers of images and categories are used. Without one, both
            are counted from 1, and ``predictions_images.json`` says which is which.
    """

    def __init__(self, classes: Sequence[str], annotations: Optional[str]):
        self.entries, self.annotations = [], annotations
        self.known = dict(images=[], annotations=[], categories=[
            dict(id=number, name=name) for number, name in enumerate(classes, start=1)])
        try:
            if annotations:
                self.known = json.loads(Path(annotations).read_text(encoding='utf-8'))
            self.images = {row['file_name']: row['id'] for row in self.known['images']}
            categories = {row['name']: row['id'] for row in self.known['categories']}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f'--annotations {annotations} is no COCO file of images and categories '
                            f'({reason(error)}).') from error
        missing = [name for name in classes if name not in categories]
        if missing:
            raise UserError(f'--annotations {annotations} has no category {missing[0]!r}, which is '
                            'a class of the model.')
        self.categories = [categories[name] for name in classes]

    def add(self, path: Path, height: int, width: int, detections: list[dict[str, Any]]) -> None:
        """Add what was found in an image; the path must end with its name in the annotations."""
        json.dumps(detections, allow_nan=False)  # fails here rather than at the very end
        if self.annotations:
            parts = path.absolute().parts
            names = ('/'.join(parts[start:]) for start in range(1, len(parts)))
            name = next((name for name in names if name in self.images), None)
            if name is None:
                raise ImageError(f'{self.annotations} has no such image, or it has been done')
            number = self.images.pop(name)
        else:
            number = len(self.known['images']) + 1
            self.known['images'].append(dict(id=number, file_name=readable(path), height=height,
                                             width=width))
        for found in detections:
            x1, y1, x2, y2 = found['bbox']
            self.entries.append(dict(
                image_id=number, category_id=self.categories[found['label']],
                bbox=[x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)], score=found['score']))
            if 'mask' in found:
                self.entries[-1]['segmentation'] = found['mask']

    def write(self, folder: Path) -> None:
        """Write ``predictions.json``."""
        write_json(folder / 'predictions.json', self.entries)
        if not self.annotations:
            write_json(folder / 'predictions_images.json', self.known)


class Run:
    """Detects objects in files, and writes what was found.

    Args:
        detector: What finds them.
        args: Options of the command line.
        files: Those of :func:`find_files`; no result is written over one.
    """

    def __init__(self, detector: Detector, args: argparse.Namespace, files: dict[Path, Path]):
        self.detector, self.args, self.files = detector, args, files
        self.coco = CocoResults(detector.classes, args.annotations) if args.coco else None
        self._taken = {path.resolve() for path in files}
        if self.coco:
            self._taken |= {Path(args.out_dir, f'{name}.json').resolve()
                            for name in ('predictions', 'predictions_images')}

    def target(self, path: Path, suffix: str) -> Path:
        """Where the picture or video for a file goes; the JSON has the same stem."""
        name = self.files[path]
        for stem in itertools.chain([name.stem], (f'{name.stem}_{n}' for n in itertools.count(2))):
            target = Path(self.args.out_dir, name.parent, stem + suffix)
            both = {target.resolve(), target.with_name(f'{stem}.json').resolve()}
            if not both & self._taken:
                self._taken |= both
                target.parent.mkdir(parents=True, exist_ok=True)
                return target

    def image(self, path: Path) -> str:
        """Do an image; returns what there is to say."""
        image = self.detector.read(path)
        result = self.detector(image, self.args.score_thr)
        size, found = dict(height=result.height, width=result.width), result.detections()
        target = self.target(path, '.jpg')
        if self.coco:
            self.coco.add(path, **size, detections=found)
        else:
            write_json(target.with_name(f'{target.stem}.json'),
                       dict(image=readable(path), **size, detections=found))
        if not self.args.no_pictures:
            with whole_file(target) as file:
                file.write_bytes(self.detector.library.encode(self.detector.draw(image, result)))
        return f'{len(found)} objects -> {self.place(target)}'

    def video(self, path: Path) -> str:
        """Do a video; returns what there is to say."""
        (rate, images), frames, target = read_video(path), [], self.target(path, '.mp4')
        with nullcontext() if self.args.no_pictures else video_writer(target, rate) as write:
            for number, image in enumerate(images):
                result = self.detector(image, self.args.score_thr)
                frames.append(dict(frame=number, detections=result.detections()))
                if write:
                    write(self.detector.draw(image, result))
        size = dict(height=result.height, width=result.width)
        if self.coco:
            for frame in frames:
                self.coco.add(path / f'{frame["frame"]:06d}', **size,
                              detections=frame['detections'])
        else:
            write_json(target.with_name(f'{target.stem}.json'),
                       dict(video=readable(path), **size, fps=rate, frames=frames))
        count = sum(len(frame['detections']) for frame in frames)
        return f'{count} objects in {len(frames)} images -> {self.place(target)}'

    def place(self, target: Path) -> str:
        """Where people find what was written for a file."""
        if self.args.no_pictures:
            target = target.with_name(f'{target.stem}.json')
            target = Path(self.args.out_dir, 'predictions.json') if self.coco else target
        return readable(target)


def run(args: argparse.Namespace) -> int:
    """Do all files; returns 1 if one could not be done, all others being done."""
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr is a number from 0 to 1, not {args.score_thr}.')
    if args.annotations and not args.coco:
        raise UserError('--annotations numbers COCO results: add --coco.')
    folder = Path(args.out_dir)
    files, problems = find_files(args.inputs, args.recursive, folder)
    if not files:
        raise UserError('Nothing to work on: ' + '; '.join(problems))
    if folder.resolve() in {path.resolve().parent for path in files}:
        raise UserError(f'--out-dir {folder} is a folder of inputs: results would lie among them. '
                        'Name another one.')
    work = Run(Detector(args.model), args, files)
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr, flush=True)
    try:
        for path in files:
            is_video = path.suffix.lower() in VIDEOS
            try:
                text = work.video(path) if is_video else work.image(path)
                print(f'{readable(path)}: {text}', flush=True)
            except (UserError, OSError):
                raise
            except Exception as error:
                problems.append(f'{readable(path)}: {reason(error)}')
                print(f'error: {problems[-1]}', file=sys.stderr, flush=True)
        if work.coco:
            work.coco.write(folder)
    except OSError as error:  # inputs that cannot be read are ImageErrors
        raise UserError(f'--out-dir {folder} cannot be written ({error.strerror}). Name another '
                        'one, change its permissions, or free some space.') from error
    if problems:
        print(f'error: {len(problems)} could not be done', file=sys.stderr)
    return 1 if problems else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='file that tools/export_onnx.py wrote')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='images, videos or folders')
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (outputs)')
    parser.add_argument('--score-thr', type=float, default=0.3,
                        help='leave out objects with a lower score (0.3)')
    parser.add_argument('--recursive', action='store_true', help='enter folders inside of folders')
    parser.add_argument('--no-pictures', action='store_true', help='draw nothing')
    parser.add_argument('--coco', action='store_true',
                        help='write one predictions.json of COCO results, no JSON for each image')
    parser.add_argument('--annotations', metavar='FILE',
                        help='COCO annotations that number images and categories for --coco')
    return parser.parse_args()


def main() -> int:
    """Returns 0, 1 if a file could not be done, 2 after a mistake, 130 after Ctrl-C."""
    args = parse_args()
    sys.stdout.reconfigure(errors='backslashreplace')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up, too
    try:
        return run(args)
    except KeyboardInterrupt:
        print('\nInterrupted.', file=sys.stderr)
        return 130
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
