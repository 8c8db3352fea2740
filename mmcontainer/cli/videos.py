"""Reading and writing videos, one image after the other."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import cv2
import numpy as np

from ..errors import UserError
from ..pipeline import ImageError

SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
_USUAL_RATE = 25.  # where a file states none
# Of other formats OpenCV gives the length times a rate, which is far off where the rate varies.
_COUNTED = ('.mp4', '.avi', '.mov', '.m4v')


def is_video(path: str) -> bool:
    """Whether a path is that of a video, by its suffix."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def frame_name(path: str, number: int) -> str:
    """What an image of a video is called in results; the first one has the number 0."""
    return f'{path}/{number:06d}'


class Video:
    """The images of a video file, as arrays of (H, W, 3), BGR, uint8.

    Args:
        path (str): The file.

    Attributes:
        rate (float): Images per second.
        count (int): Number of images that the file states; 0 where it does not, and an estimate in
            formats that state none.

    Raises:
        ImageError: It cannot be opened, or, while it is read, ends long before its stated end.
    """

    def __init__(self, path: str):
        # Of a file that is no video, one message is enough.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        # FFmpeg takes what stands before a colon for a protocol.
        self._video = cv2.VideoCapture(os.path.abspath(path))
        if not self._video.isOpened():
            raise ImageError('cannot be read as a video' if os.path.isfile(path)
                             else 'there is no such file')
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else _USUAL_RATE
        self.count = max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._is_counted = path.lower().endswith(_COUNTED)

    def __iter__(self) -> Iterator[np.ndarray]:
        number, (is_read, image) = 0, self._video.read()
        while is_read:
            yield image
            number, (is_read, image) = number + 1, self._video.read()
        if number < max(1, 0.98 * self.count - 2 if self._is_counted else 0):
            raise ImageError(f'broken: {number} of its {self.count} images can be read')


def count_images(path: str) -> int:
    """Number of images that a video states; 0 where it cannot be read."""
    try:
        return Video(path).count
    except ImageError:
        return 0


@contextmanager
def video_writer(path: str, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an MP4.

    Args:
        path (str): The file; its suffix is .mp4.
        rate (float): Images per second, below 1000.

    Yields:
        Callable: Appends a picture, (H, W, 3) in RGB, uint8; all have one size. A last row or
        column is left out where their number is odd.

    Raises:
        ImageError: OpenCV cannot write this MP4.
        UserError: The file has not become whole.
    """
    video, number = cv2.VideoWriter(), 0
    # MPEG-4 has rates as fractions of whole numbers up to 65535, which OpenCV makes of decimals.
    rate = round(rate, 3 if rate < 65 else 2 if rate < 655 else 1)

    def write(picture: np.ndarray) -> None:
        nonlocal number
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        if not video.isOpened() and not video.open(path, codec, rate, picture.shape[1::-1]):
            raise ImageError('this OpenCV cannot write it as an MP4: '
                             'pip install opencv-python-headless, or add --no-pictures')
        video.write(np.ascontiguousarray(picture[..., ::-1]))
        number += 1

    try:
        yield write
    finally:
        video.release()
    if count_images(path) != number:  # OpenCV does not say when writing fails
        raise UserError('A video could not be written completely: is the disk full? Free some '
                        'space, or add --no-pictures.')
