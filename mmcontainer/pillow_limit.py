"""Pillow's limit for the pixels of an image, which other decoders do not have."""
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

from PIL import Image

# Pillow's limit as it was, and one entry more for every other thread that has lifted it.
_limits: list[Optional[int]] = []
_lock = threading.Lock()


@contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Let Pillow open images of any size.

    The limit is Pillow's, one for all threads: the first lifts it, and the last puts it back.
    """
    with _lock:
        _limits.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                Image.MAX_IMAGE_PIXELS = limit
