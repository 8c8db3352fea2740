"""Official checkpoints: safe reading, renaming in both directions, strict loading."""
from .files import (
                    CorruptCheckpointError,
                    UnsafeCheckpointError,
                    file_hash,
                    load_file,
                    resolve_path,
                    save_with_hash,
                    unwrap_state_dict,
)
from .key_table import KeyMismatchError, KeyTable
from .loading import SOURCES, convert, convert_back, detect_source, get_source, load_backbone

__all__ = [
    'SOURCES', 'CorruptCheckpointError', 'KeyMismatchError', 'KeyTable', 'UnsafeCheckpointError',
    'convert', 'convert_back', 'detect_source', 'file_hash', 'get_source', 'load_backbone',
    'load_file', 'resolve_path', 'save_with_hash', 'unwrap_state_dict'
]
