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
