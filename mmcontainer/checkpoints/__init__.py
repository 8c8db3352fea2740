"""Official checkpoints: safe reading, renaming in both directions, strict loading."""
from .files import UnsafeCheckpointError, load_file, resolve_path, save_with_hash
from .integrity import CorruptCheckpointError, check_file, file_hash
from .key_table import KeyMismatchError, KeyTable
from .loading import (
    SOURCES,
    convert,
    convert_back,
    detect_source,
    find_problems,
    get_source,
    load_backbone,
    name_classifier,
    read_weights,
)
from .tensors import unwrap_state_dict

__all__ = [
    'SOURCES', 'CorruptCheckpointError', 'KeyMismatchError', 'KeyTable', 'UnsafeCheckpointError',
    'check_file', 'convert', 'convert_back', 'detect_source', 'file_hash', 'find_problems',
    'get_source', 'load_backbone', 'load_file', 'name_classifier', 'read_weights', 'resolve_path',
    'save_with_hash', 'unwrap_state_dict'
]
