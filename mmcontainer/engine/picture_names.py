"""Names of pictures that are drawn of a data set's images: no two share one."""
import os
from collections.abc import Iterable
from pathlib import Path

_WRITTEN = ('.jpg', '.jpeg', '.png')  # other formats may be read only


class PictureNames:
    """Names like those of the images, in folders like theirs.

    Args:
        folder (Path): Folder for the pictures.
        images (Iterable[str]): Paths of all images; the folder that they have in common becomes
            ``folder``.
    """

    def __init__(self, folder: Path, images: Iterable[str]):
        self.folder = folder
        self._root = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in images})

    def __call__(self, image: str) -> Path:
        """Return the path of the picture for one of the images."""
        name = os.path.relpath(os.path.abspath(image), self._root)
        if not name.lower().endswith(_WRITTEN):
            name += '.jpg'
        return self.folder / name


def dataset_images(dataset) -> list[str]:
    """Paths of all images of a data set."""
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
