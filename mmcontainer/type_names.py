"""Names of what a config builds, however it says so."""
from typing import Any

# Initialisers that load weights. MMEngine's 'Pretrained' is the class PretrainedInit.
LOADING_TYPES = ('StrictPretrained', 'Pretrained', 'PretrainedInit')


def type_name(value: Any) -> str:
    """Name without module and scope of ``type=value`` in a config.

    A type is a registered name ('SyncBN'), one with a scope ('mmdet.SyncBN'), a path
    ('mmcontainer.engine.initializers.StrictPretrained') or the class itself, as configs in
    MMEngine's pure Python style have it.

    Returns:
        str: Its last part; an empty string where there is no type.
    """
    if isinstance(value, str):
        return value.rpartition('.')[2]
    return getattr(value, '__name__', '')


def loading_entries(init_cfg: Any) -> list[dict]:
    """Entries of an ``init_cfg``, which is a dict, several, or None, that load weights."""
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return [entry for entry in entries if entry and type_name(entry['type']) in LOADING_TYPES]
