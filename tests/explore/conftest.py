"""What the tests of the page share."""
import pytest
from PIL import Image


@pytest.fixture
def photo(tmp_path):
    """Path of a photograph."""
    from small_detectors import scene
    path = tmp_path / 'photo.png'
    Image.fromarray(scene()).save(path)
    return path
