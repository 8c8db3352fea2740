"""Check that a file is a whole checkpoint, without unpickling any of it."""
import hashlib
import re
import zipfile
from pathlib import Path
from typing import Union

_HASHED = re.compile(r'-([0-9a-f]{8})$')
# Eight digits that are a date, as people put it behind the names of their runs.
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')


class CorruptCheckpointError(RuntimeError):
    """A file that is no readable checkpoint."""


def hash_in_name(path: Path) -> str:
    """The content hash in ``name-xxxxxxxx.pth``, as OpenMMLab and torchvision write it, or ''."""
    match = _HASHED.search(path.stem)
    return '' if match is None or _DATE.fullmatch(match.group(1)) else match.group(1)


def sha256(path: Union[str, Path]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def file_hash(path: Union[str, Path]) -> str:
    """First 8 hexadecimal digits of the SHA-256 of a file, as in OpenMMLab's file names."""
    return sha256(path)[:8]


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins as safetensors do: the length of a JSON header, then the header.

    https://github.com/huggingface/safetensors#format
    """
    with open(path, 'rb') as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 27


def is_archive(path: Path) -> bool:
    """Tell whether a file begins as a zip archive does, torch.save's format of today."""
    with open(path, 'rb') as file:
        return file.read(2) == b'PK'


def corrupt(path: Path, found: str) -> CorruptCheckpointError:
    """The error for a file that should be a checkpoint and is not."""
    return CorruptCheckpointError(
        f'{path} ({path.stat().st_size} bytes) is not a readable PyTorch checkpoint: {found}. It '
        'may be an incomplete download, or a web page saved in place of the file: delete it and '
        'download (or copy) it again.')


def check_file(path: Path) -> None:
    """Check that a checkpoint is whole: its size, its checksums, and the hash in its name.

    Files of before 2020 and safetensors have no checksums, nor have those that were saved with
    ``torch.serialization.set_crc32_options(False)``.

    Args:
        path (Path): The file, under its full name.

    Raises:
        CorruptCheckpointError: Says what is wrong with it.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(64)
    except PermissionError as error:
        raise CorruptCheckpointError(f'{path} cannot be read: its permissions forbid it. Become '
                                     'its owner, or copy it.') from error
    if not head:
        raise corrupt(path, 'it is empty')
    if head.lstrip().startswith(b'<') and not is_safetensors(path):
        raise corrupt(path, 'it is a web page or another text in angle brackets')
    promised = hash_in_name(path)
    if promised:
        found = file_hash(path)
        if found != promised:
            raise CorruptCheckpointError(
                f'{path} does not have the content its name promises (its hash is {found}). It was '
                'changed or not copied completely: copy or convert it again, or give it a name '
                'without hash if you changed it on purpose.')
    if head.startswith(b'PK'):
        _check_archive(path)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.filename.endswith('/constants.pkl') for member in members):
                raise CorruptCheckpointError(
                    f'{path} is a program of TorchScript, not a file of weights: save '
                    'model.state_dict() with torch.save where the program was made.')
            # torch.save compresses nothing. A small file that unpacks to any size fills the memory.
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise corrupt(path, 'it is an archive that some other program compressed')
            if not any(member.CRC for member in members):
                return  # saved without checksums
            damaged = archive.testzip()
    except CorruptCheckpointError:
        raise
    # A flipped bit of a directory makes zipfile raise many kinds of errors.
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError,
            RuntimeError, OverflowError) as error:
        raise corrupt(path, f'its end is missing or damaged ({error})') from error
    if damaged is not None:
        raise corrupt(path, f'the checksum of {damaged} in it is wrong')
