"""Lists of a share of the training images, for experiments on data efficiency."""
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Union

from ..compat import python_command
from ..errors import UserError
from ..fileio import write_text
from .paths import check_writable_file

_SPLITS = {'train', 'val', 'test', 'meta'}


def list_images(folder: Union[str, Path]) -> dict[str, list[str]]:
    """List the images of a training folder, exactly as MMPretrain's ImageNet data set does.

    Args:
        folder (str | Path): Holds one folder per class.

    Returns:
        dict[str, list[str]]: Images, as paths relative to ``folder``, by class. Both are sorted, so
        the position of a class is its number.

    Raises:
        UserError: If MMPretrain is not installed, there is no such folder, it holds no class
            folders, or some of them no images.
    """
    if find_spec('mmpretrain') is None:
        raise UserError('MMPretrain, whose rules say what is an image, is not installed: run '
                        f'`{python_command()} -m mmcontainer.doctor`, which says how to get it.')
    from mmpretrain.datasets import ImageNet
    from mmpretrain.datasets.custom import find_folders, get_samples
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f'There is no folder {folder}. The folder of the training images is '
                        'expected, for example data/imagenet/train.')
    names, numbers = find_folders(str(folder))
    if not names:
        raise UserError(f'{folder} holds no folders; one folder of images per class is expected.')
    if set(names) <= _SPLITS:
        raise UserError(f'{folder} holds {", ".join(names)}, which are no classes. Name the folder '
                        f'of the training images: {folder / "train"}')
    suffixes = tuple(ImageNet.IMG_EXTENSIONS)
    samples, empty = get_samples(
        str(folder), numbers, lambda name: name.lower().endswith(suffixes))
    if empty:
        raise UserError(f'{len(empty)} of {len(names)} folders in {folder} hold no images '
                        f'({" ".join(suffixes)}): {", ".join(sorted(empty)[:5])}'
                        f'{" ..." if len(empty) > 5 else ""}.')
    images = {name: [] for name in names}
    for path, number in samples:
        images[names[number]].append(Path(path).as_posix())
    return images


def choose_share(names: Sequence[str], share: float, seed: int) -> list[str]:
    """Choose a share of names at random: at least one, the nearest number (halves to even).

    The order they are taken in is that of a hash of seed and name, with ImageNet's ending in place
    of its own. So the choice depends on nothing else (not on the order of ``names``, the machine,
    or whether images were stored anew in another format), and a smaller share of the same names and
    seed is part of a larger one.

    Returns:
        list[str]: The chosen names, sorted.
    """
    def draw(name: str) -> bytes:
        name = PurePosixPath(name).with_suffix('.JPEG')
        return hashlib.sha256(f'{seed}/{name}'.encode()).digest()

    number = max(1, round(share * len(names)))
    return sorted(sorted(names, key=draw)[:number])


def write_subset(folder: Union[str, Path], share: float, seed: int, out: Union[str, Path],
                 force: bool = False) -> str:
    """Write the list of a share of every class, to be read as ``ann_file`` by MMPretrain.

    Args:
        folder (str | Path): Training images, one folder per class.
        share (float): Share of the images of every class, above 0 and up to 1.
        seed (int): Another seed chooses other images.
        out (str | Path): File to write, one line "class/image.jpg class_number" per image.
        force (bool): Replace the file if there is one.

    Returns:
        str: What was written, for the user to read.

    Raises:
        UserError: Share out of range, nothing to choose from (:func:`list_images`), a file in the
            way, or no permission. No file is written then.
    """
    if not 0 < share <= 1:
        raise UserError(f'--share is above 0 and at most 1 (0.1 is 10 %), not {share}.')
    # Before all of ImageNet is listed, which takes minutes.
    out = check_writable_file(out, '--out')
    if out.exists() and not force:
        raise UserError(f'{out} is there already and was left alone; --force replaces it.')
    images = list_images(folder)
    chosen = [choose_share(names, share, seed) for names in images.values()]
    lines = [f'{name} {number}\n' for number, names in enumerate(chosen) for name in names]
    write_text(out, ''.join(lines))
    total = sum(len(names) for names in images.values())
    return (f'{len(lines)} of {total} images ({len(lines) / total:.1%}) of {len(images)} classes, '
            f'seed {seed} -> {out}')
