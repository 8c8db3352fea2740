"""Finding the images and videos that a command line names, and checking that images are whole."""
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

from PIL import Image, UnidentifiedImageError

from ..data_check.report import counted
from ..pillow_limit import pillow_limit_lifted
from ..pipeline import ImageError
from . import videos

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
# Pillow's own limit. Reading an image of this size and drawing on it takes 1.3 GB.
MAX_PIXELS = 89_478_485


class ImageFile(NamedTuple):
    """An image or a video, and its place among the results."""
    path: str
    name: Path  # 'b/1.jpg' for 1.jpg in the sub-folder b of a folder that was named

    @property
    def is_video(self) -> bool:
        """Whether its suffix is that of a video."""
        return videos.is_video(self.path)


@dataclass
class ImageFiles:
    """Images and videos found by the names on a command line.

    Attributes:
        images: Images and videos, in the order of the names; those of one folder sorted.
        problems: Messages about names that stand for none.
        skipped: Messages about what was left out on purpose.
    """
    images: list[ImageFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def readable(path) -> str:
    r"""A path as valid Unicode: bytes that are no UTF-8 become ``\xe9``, for example."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def _walk(folder: str, recursive: bool, excluded: Optional[str], found: ImageFiles,
          with_videos: bool) -> None:
    """Add the images of a folder, and its videos; say what else is in it."""
    suffixes = (*SUFFIXES, *videos.SUFFIXES) if with_videos else SUFFIXES

    def fail(error: OSError) -> None:
        found.problems.append(f'{readable(error.filename)}: {error.strerror}')

    before, others, skipped_folders = len(found.images), Counter(), 0
    for parent, folders, files in os.walk(folder, onerror=fail):
        # Links to folders are not followed: they may lead in a circle.
        entered = [name for name in sorted(folders) if recursive
                   and not os.path.islink(os.path.join(parent, name))
                   and os.path.abspath(os.path.join(parent, name)) != excluded]
        skipped_folders += len(folders) - len(entered)
        folders[:] = entered
        for name in sorted(files):
            path = os.path.join(parent, name)
            if os.path.splitext(name)[1].lower() not in suffixes:
                others[os.path.splitext(readable(name))[1].lower() or 'no suffix'] += 1
            elif os.path.isfile(path):
                found.images.append(ImageFile(path, Path(os.path.relpath(path, folder))))
            else:
                found.problems.append(f'{readable(path)}: no file, or a link to nothing')
    if len(found.images) == before:
        found.problems.append(f'{readable(folder)}: a folder without images '
                              f'{"and videos " if with_videos else ""}({" ".join(suffixes)})')
    parts = []
    if others:
        kinds = ', '.join(f'{number} {suffix}' for suffix, number in sorted(others.items()))
        number = counted(sum(others.values()), 'file')
        parts.append(f'{number} without the suffix of an image '
                     f'{"or a video " if with_videos else ""}({kinds})')
    if skipped_folders:
        parts.append(counted(skipped_folders, 'folder') + (
            ' (links, or the one of the results)' if recursive else ' (--recursive enters them)'))
    if parts:
        found.skipped.append(f'{readable(folder)}: left out {" and ".join(parts)}')


def collect_images(names: Iterable[str], recursive: bool = False, excluded: Optional[str] = None,
                   with_videos: bool = False) -> ImageFiles:
    """List the images meant by the names of files and folders, each file once.

    Args:
        names (Iterable[str]): Of a folder those files count that have the suffix of an image.
        recursive (bool): Enter the folders inside of folders, too.
        excluded (str, optional): A folder that is not entered: the one of the results.
        with_videos (bool): Of a folder list the videos, too.

    Returns:
        ImageFiles: Images, problems, and what was left out.
    """
    found = ImageFiles()
    excluded = excluded and os.path.abspath(excluded)
    for name in names:
        path = os.path.expanduser(name)
        # Unlike pathlib's, these do not raise for folders that may not be entered.
        if os.path.isdir(path):
            _walk(path, recursive, excluded, found, with_videos)
        elif os.path.isfile(path):
            found.images.append(ImageFile(path, Path(os.path.basename(path))))
        else:
            found.problems.append(f'{readable(name)}: there is no such file or folder')
    unique = {os.path.abspath(image.path): image for image in reversed(found.images)}
    twice = len(found.images) - len(unique)
    if twice:
        found.skipped.append(f'{counted(twice, "image")} named more than once: done once')
    found.images = list(reversed(unique.values()))
    return found


def check_image(path: str, max_pixels: int = MAX_PIXELS, option: str = '--max-pixels') -> bool:
    """Check the size that an image's header states, and that its data are complete.

    OpenCV fills up what is missing of a truncated JPEG with grey. What Pillow does not know as an
    image is left to the decoder of the test pipeline.

    Args:
        path (str): The file.
        max_pixels (int): An image may have this many pixels, height times width.
        option (str): What the caller of the program calls ``max_pixels``.

    Returns:
        bool: Whether the file holds several pictures, an animation, say; only the first is decoded.

    Raises:
        ImageError: Unreadable file, too many pixels, or truncated.
    """
    with pillow_limit_lifted(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about odd metadata
        try:
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f'{width} x {height} are {width * height / 1e6:.0f} million pixels, and '
                        f'{option} allows {max_pixels / 1e6:.3g} million')
                # A JPEG is decoded at an eighth of its size, which is faster.
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
                image.load()
                # In the MPO files of cameras the others are previews.
                return getattr(image, 'is_animated', False) and image.format != 'MPO'
        except UnidentifiedImageError:
            return False
        except OSError as error:
            if error.strerror is not None:
                raise ImageError(error.strerror) from error
            if 'truncated' in str(error).lower():
                raise ImageError(f'truncated, its data are not complete ({error})') from error
        except (ValueError, SyntaxError, EOFError):
            pass  # broken, or a variant that Pillow does not know: the decoder will say
        return False
