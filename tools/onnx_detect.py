#!/usr/bin/env python
"""Detect objects with a file of tools/export_onnx.py; copy this script to wherever it is to run.

It needs: pip install numpy onnxruntime opencv-python-headless    (or pillow, but not for videos)

  python onnx_detect.py detector.onnx photo.jpg folder clip.mp4
  python onnx_detect.py detector.onnx val2017 --coco --annotations instances_val2017.json

  from onnx_detect import Detector
  result = Detector('detector.onnx')('photo.jpg', score_thr=0.3)  # or pixels (H, W, 3), RGB, uint8
  for box, score, label in zip(result.boxes, result.scores, result.labels):
      print(result.classes[label], score, box)

image -> resize -> onnxruntime -> boxes in pixels of the image -> picture, JSON or COCO results
"""
import argparse
import colorsys
import io
import json
import os
import secrets
import signal
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
import onnxruntime

os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # our messages are enough
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2 * 89_478_485))  # Pillow's limit
try:
    import cv2
except ImportError:
    cv2 = None
try:
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ImportError:
    if cv2 is None:
        raise
    Image = None

FORMAT = 1  # of what export_onnx.py notes in its files
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
FILTERS = dict(nearest=0, bilinear=1, bicubic=2, area=3, lanczos=4)  # OpenCV's numbers


class Detector:
    """A detector in an ONNX file, ready to run.

    Args:
        path: File that tools/export_onnx.py wrote.
        providers: Names of onnxruntime's; CUDA where it has that, else the CPU.

    Raises:
        ValueError: No such file, or another kind of file.
    """

    def __init__(self, path: Union[str, Path], providers: Optional[list[str]] = None):
        usable = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider')
                  if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers or usable)
        except Exception as error:  # onnxruntime's have no class in common
            raise ValueError(f'{path} is no ONNX file that onnxruntime {onnxruntime.__version__} '
                             f'can load ({reason(error)})') from error
        self.outputs = [output.name for output in self.session.get_outputs()]
        noted = self.session.get_modelmeta().custom_metadata_map.get('mmcontainer', '{}')
        self.metadata = json.loads(noted)
        if self.metadata.get('format') != FORMAT or 'dets' not in self.outputs:
            raise ValueError(f'{path} is no detector of format {FORMAT}; the export_onnx.py beside '
                             'this script writes one: python tools/export_onnx.py CONFIG '
                             'CHECKPOINT OUT.onnx (without --no-nms)')
        self.classes = self.metadata['classes']
        backend = self.metadata['resize']['backend']  # which resized images in training
        self.library = backend if dict(cv2=cv2, pillow=Image)[backend] else (
            'pillow' if backend == 'cv2' else 'cv2')
        if self.library != backend:
            print(f'note: without {backend}, which the model was tested with, boxes move a little',
                  file=sys.stderr)

    def __call__(self, image: Union[str, Path, np.ndarray], score_thr: float = 0) -> 'Result':
        """Detect objects.

        Args:
            image: A file, or pixels of (H, W, 3), RGB, uint8.
            score_thr: Leave out objects with a lower score.

        Raises:
            ValueError: It is no image, or one that is too thin to be resized.
        """
        if not isinstance(image, np.ndarray):
            image = self.read(image)
        if image.dtype != np.uint8 or image.shape[2:] != (3, ) or not image.size:
            raise ValueError('expected pixels of (H, W, 3), RGB, uint8, not '
                             f'{image.dtype} of {image.shape}')
        height, width = image.shape[:2]
        inputs, (rows, columns) = self.prepare(image)
        outputs = dict(zip(self.outputs, self.session.run(self.outputs, {'images': inputs})))
        labels, boxes, scores = outputs['labels'][0], *np.split(outputs['dets'][0], [4], axis=1)
        scores, boxes = scores[:, 0], boxes * np.float32([width / columns, height / rows] * 2)
        keep = (labels >= 0) & (scores >= score_thr)  # -1 is no object
        if self.metadata['size']:  # objects may lie in what was padded
            boxes = boxes.clip(0, np.float32([width, height] * 2))
            keep &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind='stable')]
        masks = outputs['masks'][0][order] if 'masks' in outputs else None
        return Result(height, width, boxes[order], scores[order], labels[order], self.classes,
                      masks, self.metadata['mask_thr'])

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Resize an image by mmcv's rule; where the file takes one size only, pad it with black.

        Returns:
            tuple: (1, H, W, 3), uint8, and height and width of the image in it.
        """
        height, width = image.shape[:2]
        rule, size = self.metadata['resize'], self.metadata['size']
        columns, rows = size[::-1] if size else rule['scale']
        if rule['keep_ratio']:
            long, short = max(rule['scale']), min(rule['scale'])
            factor = min(long / max(height, width), short / min(height, width),
                         *((rows / height, columns / width) if size else ()))
            rows, columns = int(height * factor + 0.5), int(width * factor + 0.5)
        if not rows or not columns:
            raise ValueError(f'{width} x {height} pixels are too thin to be resized')
        if self.library == 'pillow':
            method = Image.Resampling[rule['interpolation'].upper()]
            resized = Image.fromarray(image).resize((columns, rows), method)
        else:
            resized = cv2.resize(np.ascontiguousarray(image), (columns, rows),
                                 interpolation=FILTERS[rule['interpolation']])
        inputs = np.zeros((1, *(size or (rows, columns)), 3), np.uint8)
        inputs[0, :rows, :columns] = resized
        return inputs, (rows, columns)

    def read(self, path: Union[str, Path]) -> np.ndarray:
        """Decode an image file: (H, W, 3), RGB, uint8, turned upright if the library does that.

        Raises:
            ValueError: It cannot be read, or is truncated.
        """
        try:
            data = Path(path).read_bytes()
            if self.library == 'pillow':
                image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
                if image.mode.startswith('I;16'):  # convert would make white of all above 255
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                return np.array(image.convert('RGB'))
            # OpenCV would fill up with grey what is missing behind the start of the pixels.
            if data[:2] == b'\xff\xd8' and not has_jpeg_end(data) or (
                    data[:4] == b'\x89PNG' and b'IEND' not in data):
                raise ValueError('truncated')
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            if image is None:
                raise ValueError('empty, or of a format that OpenCV does not know')
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        except Exception as error:  # decoders raise all kinds
            raise ValueError(f'cannot be read as an image ({reason(error)})') from error


@dataclass
class Result:
    """The objects that were found in an image, best first."""
    height: int  # of the image, in pixels
    width: int
    boxes: np.ndarray  # (N, 4), float32, x1 y1 x2 y2 in pixels of the image
    scores: np.ndarray  # (N, ), float32, from 0 to 1
    labels: np.ndarray  # (N, ), int64, places in `classes`
    classes: list[str]
    box_masks: Optional[np.ndarray] = None  # (N, 28, 28), probabilities in each box
    mask_thr: float = 0.5  # the probability from which on a pixel belongs to the object

    def mask(self, index: int) -> np.ndarray:
        """Pixels of an object, (height, width), bool.

        As MMDetection's FCNMaskHead stretches a mask over its box: bilinear between pixel centres.
        """
        box, mask, weights, region = self.boxes[index], self.box_masks[index], [], []
        for low, high, length, size in ((box[1], box[3], self.height, mask.shape[0]),
                                        (box[0], box[2], self.width, mask.shape[1])):
            start = max(0, int(np.floor(low)) - 1)
            stop = max(start, min(length, int(np.ceil(high)) + 1))
            centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
            centres = (centres - low) / max(high - low, np.float32(1e-6)) * 2 - 1  # of -1 to 1
            centres = ((centres + 1) * size - 1) / 2  # in pixels of the mask
            # Each pixel of the mask counts up to a distance of 1: that is linear interpolation.
            weights.append(np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size, dtype='f'))))
            region.append(slice(start, stop))
        pixels = np.zeros((self.height, self.width), bool)
        pixels[tuple(region)] = weights[0] @ mask @ weights[1].T >= self.mask_thr
        return pixels

    def detections(self) -> list[dict]:
        """Plain data for JSON, as tools/infer.py writes them."""
        found = []
        for index, label in enumerate(self.labels.tolist()):
            found.append({'label': label, 'class': self.classes[label],
                          'score': round(self.scores[index].item(), 6),
                          'bbox': [round(value, 3) for value in self.boxes[index].tolist()]})
            if self.box_masks is not None:
                found[-1]['mask'] = encode_mask(self.mask(index))
        return found

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Draw the objects on a copy of the image, (H, W, 3), RGB, uint8; the best one on top."""
        image = image.copy()
        line, height = max(2, max(image.shape) // 400), max(12, max(image.shape) // 60)
        for index in reversed(range(len(self.boxes))):
            label = self.labels[index]
            text = f'{self.classes[label]}: {self.scores[index]:.2f}'
            colour = [int(255 * x) for x in colorsys.hsv_to_rgb(label * 0.618 % 1, 0.9, 0.7)]
            if self.box_masks is not None:
                mask = self.mask(index)
                image[mask] = 0.6 * image[mask] + 0.4 * np.array(colour)
            x1, y1, x2, y2 = self.boxes[index].clip(0).round().astype(int).tolist()
            length = len(text) * height * 5 // 8
            x, y = max(0, min(x1, self.width - length)), max(0, y1 - height)
            image[y:y + height, x:x + length] = colour
            if cv2:
                cv2.rectangle(image, (x1, y1), (x2, y2), colour, line)
                cv2.putText(image, text, (x, y + height * 4 // 5), cv2.FONT_HERSHEY_SIMPLEX,
                            height / 32, (255, 255, 255), max(1, height // 14), cv2.LINE_AA)
            else:
                picture = Image.fromarray(image)
                pen = ImageDraw.Draw(picture)
                pen.rectangle((x1, y1, x2, y2), outline=tuple(colour), width=line)
                pen.text((x, y), text, 'white', ImageFont.load_default(height * 4 // 5))
                image = np.array(picture)
        return image


def encode_mask(mask: np.ndarray) -> dict:
    """Compress a mask, (H, W), bool, into COCO's run-length code, as pycocotools reads it."""
    pixels = mask.ravel(order='F')  # column by column, in runs of 0 and 1 by turns, 0 first
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff([0, *([0] if pixels[0] else []), *ends, pixels.size])
    runs[3:] -= runs[1:-2].copy()  # from the last run but one, which is often similar
    text = ''
    for value in runs.tolist():
        more = True
        while more:  # 5 bits in a letter, the lowest first; a sixth says that there are more
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return dict(size=list(mask.shape), counts=text)


def has_jpeg_end(data: bytes) -> bool:
    """Tell whether the mark of the end comes behind the pixels; anything may follow it."""
    place = 2
    while data[place:place + 1] == b'\xff' and data[place:place + 2] != b'\xff\xda':  # to the scan
        length = int.from_bytes(data[place + 2:place + 4], 'big')
        place += 1 if data[place + 1:place + 2] == b'\xff' else 2 + length  # 255 may fill up
    return data.find(b'\xff\xd9', place) >= 0


def reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ----------------------------------------------------------------------- files in and files out

def find_files(names: list[str], recursive: bool, folder: Path):
    """``{result: file}`` of images and videos, and messages about names that stand for none.

    A result is a path in the folder, without suffix. What lies in this folder is no input.
    """
    found, problems = {}, []
    for top in map(Path, names):
        files = [top] if os.path.isfile(top) else sorted(
            path for path in (top.rglob('*') if recursive else top.glob('*'))
            if path.suffix.lower() in IMAGES + VIDEOS and os.path.isfile(path)
            and folder.resolve() not in path.resolve().parents)
        for path in files:
            result = folder / (path.name if path == top else path.relative_to(top))
            result = result.with_name(path.stem)
            while found.setdefault(result, path) != path:  # another file's
                result = result.with_name(f'{result.name}_2')
        if not files:
            problems.append(f'{top}: no file, and no folder with images or videos (--recursive '
                            'enters folders inside of it)')
    return found, problems


def read_video(path: Path):
    """Yield the images of a video."""
    video = cv2.VideoCapture(os.path.abspath(path))  # before a colon FFmpeg expects a protocol
    number, stated, (is_read, image) = 0, video.get(cv2.CAP_PROP_FRAME_COUNT), video.read()
    while is_read:
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        number, (is_read, image) = number + 1, video.read()
    # Other formats state no number of images, and OpenCV guesses.
    is_counted = path.suffix.lower() in ('.mp4', '.avi', '.mov', '.m4v')
    if number < max(1, 0.98 * stated - 2 if is_counted else 0):
        raise ValueError(f'no video, or broken: {number} of its images can be read')


@contextmanager
def whole_file(target: Path):
    """A temporary path that becomes the target at the end, and vanishes if there is an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f'.unfinished-{secrets.token_hex(4)}{target.suffix}')
    try:
        yield path
        os.replace(path, target)
    finally:
        path.unlink(missing_ok=True)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write a picture."""
    if cv2:  # encoded in memory, so that a full disk is an OSError
        path.write_bytes(cv2.imencode('.jpg', image[..., ::-1])[1].tobytes())
    else:
        Image.fromarray(image).save(path, quality=95)


def write_json(target: Path, content) -> None:
    """Write a file of JSON."""
    with whole_file(target) as path:
        path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding='utf-8')


class CocoResults:
    """Gathers detections as COCO results: ``COCO(annotations).loadRes('predictions.json')``.

    Images and categories have the numbers of the annotations. Without these, both are counted from
    1, and ``predictions_images.json`` says which is which.
    """

    def __init__(self, classes: list[str], annotations: Optional[str]):
        self.entries, self.annotations = [], annotations
        self.known = dict(images=[], annotations=[], categories=[
            dict(id=number, name=name) for number, name in enumerate(classes, start=1)])
        try:
            if annotations:
                self.known = json.loads(Path(annotations).read_text(encoding='utf-8'))
            self.images = {row['file_name'].replace('\\', '/'): row['id']
                           for row in self.known['images']}
            categories = {row['name']: row['id'] for row in self.known['categories']}
            self.categories = [categories[name] for name in classes]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f'--annotations {annotations} is no COCO file with images and all '
                             f'classes of the model ({type(error).__name__}: {error})') from error

    def add(self, path: Path, height: int, width: int, detections: list[dict]) -> None:
        """Add what was found in an image; the path must end with its name in the annotations."""
        json.dumps(detections, allow_nan=False)  # fails here rather than at the very end
        if self.annotations:
            parts = path.absolute().parts
            names = ('/'.join(parts[start:]) for start in range(1, len(parts)))
            number = next((self.images.pop(name) for name in names if name in self.images), None)
            if number is None:
                raise ValueError(f'{self.annotations} has no such image, or it has been done')
        else:
            number = len(self.known['images']) + 1
            self.known['images'].append(
                dict(id=number, file_name=str(path), height=height, width=width))
        for found in detections:
            x1, y1, x2, y2 = found['bbox']
            masks = dict(segmentation=found['mask']) if 'mask' in found else {}
            self.entries.append(dict(
                image_id=number, category_id=self.categories[found['label']],
                bbox=[x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)], score=found['score'], **masks))

    def write(self, folder: Path) -> None:
        """Write ``predictions.json``."""
        write_json(folder / 'predictions.json', self.entries)
        if not self.annotations:
            write_json(folder / 'predictions_images.json', self.known)


def detect_file(detector: Detector, path: Path, result: Path, args, coco) -> str:
    """Do an image or a video, and write the results; returns what there is to say."""
    is_video, video, found = path.suffix.lower() in VIDEOS, None, []
    if is_video and cv2 is None:
        raise ValueError('videos need OpenCV: pip install opencv-python-headless')
    rate = cv2.VideoCapture(os.path.abspath(path)).get(cv2.CAP_PROP_FPS) if is_video else 0
    rate = rate if 0 < rate < 1000 else 25.  # some state none
    # MPEG-4 has rates as fractions of whole numbers up to 65535.
    drawn = round(rate, 3 if rate < 65 else 2 if rate < 655 else 1)
    picture = result.with_name(result.name + ('.mp4' if is_video else '.jpg'))
    data = result.with_name(f'{result.name}.json')
    with nullcontext() if args.no_pictures else whole_file(picture) as file:
        for image in read_video(path) if is_video else [detector.read(path)]:
            objects = detector(image, args.score_thr)
            found.append(objects.detections())
            if file and is_video:
                video = video or cv2.VideoWriter(
                    str(file), cv2.VideoWriter_fourcc(*'mp4v'), drawn, image.shape[1::-1])
                video.write(cv2.cvtColor(objects.draw(image), cv2.COLOR_RGB2BGR))
            elif file:
                write_jpeg(file, objects.draw(image))
        if video:
            video.release()
            if not cv2.VideoCapture(str(file)).isOpened():  # nothing else tells
                raise OSError(None, 'no MP4: is the disk full? --no-pictures writes none')
        size = dict(height=objects.height, width=objects.width)
        if coco:
            data = Path(args.out_dir, 'predictions.json')
            for number, one in enumerate(found):
                coco.add(path / f'{number:06d}' if is_video else path, **size, detections=one)
        elif is_video:
            write_json(data, dict(video=str(path), **size, fps=rate, frames=[
                dict(frame=number, detections=one) for number, one in enumerate(found)]))
        else:
            write_json(data, dict(image=str(path), **size, detections=found[0]))
    return (f'{sum(map(len, found))} objects{f" in {len(found)} images" if is_video else ""} -> '
            f'{data if args.no_pictures else picture}')


def run(args) -> int:
    """Do all files; returns 1 if one could not be done, all others being done."""
    folder = Path(args.out_dir)
    files, problems = find_files(args.inputs, args.recursive, folder)
    if not files:
        raise ValueError('nothing to work on: ' + '; '.join(problems))
    if any(folder.resolve() in path.resolve().parents for path in files.values()):
        raise ValueError(f'--out-dir {folder} holds inputs: results might replace them')
    detector = Detector(args.model)
    coco = CocoResults(detector.classes, args.annotations) if (
        args.coco or args.annotations) else None
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr, flush=True)
    for result, path in files.items():
        try:
            print(f'{path}: {detect_file(detector, path, result, args, coco)}', flush=True)
        except OSError:
            raise
        except Exception as error:
            problems.append(path)
            print(f'error: {path}: {reason(error)}', file=sys.stderr, flush=True)
    if coco:
        coco.write(folder)
    if problems:
        print(f'error: {len(problems)} could not be done', file=sys.stderr)
    return 1 if problems else 0


def main() -> int:
    """Returns 0, 1 if a file could not be done, 2 after a mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('model', help='file that tools/export_onnx.py wrote')
    add('inputs', nargs='+', metavar='INPUT', help='images, videos or folders')
    add('--out-dir', default='outputs', help='folder for the results (outputs)')
    add('--score-thr', type=float, default=0.3, help='leave out objects with a lower score (0.3)')
    add('--recursive', action='store_true', help='enter folders inside of folders')
    add('--no-pictures', action='store_true', help='draw nothing')
    add('--coco', action='store_true', help='write one predictions.json of COCO results')
    add('--annotations', metavar='FILE', help='COCO results with the numbers of images and '
        'categories of this COCO file')
    args = parser.parse_args()
    sys.stdout.reconfigure(errors='backslashreplace')
    for number in (signal.SIGINT, signal.SIGTERM):  # exits clean up
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if not 0 <= args.score_thr <= 1:
            raise ValueError(f'--score-thr is a number from 0 to 1, not {args.score_thr}')
        return run(args)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
    except OSError as error:  # inputs that cannot be read are ValueErrors
        print(f'error: --out-dir {args.out_dir} cannot be written ({error.strerror})',
              file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
