"""``tools/get_flops.py``: the cost of a config's model as text."""
import math
from collections.abc import Sequence
from typing import Optional

from ..cli.configs import build_model, load_config
from ..errors import UserError
from .flops import count_flops

# What the papers' tables are counted at, by default_scope; detectors at the second.
_SHAPES, _DETECTION_SHAPE = dict(mmpretrain=(224, 224), mmseg=(512, 512)), (800, 1280)


def report_flops(config: str,
                 shape: Optional[Sequence[int]] = None,
                 options: Optional[dict] = None) -> str:
    """Count the multiply-adds and parameters of a config's model.

    Args:
        config (str): Config file.
        shape (Sequence[int], optional): Height and width of one image; padded as the data
            preprocessor would. By default 224 x 224 for MMPretrain's configs, 512 x 512
            for MMSegmentation's, else 800 x 1280.
        options (dict, optional): ``--cfg-options``.

    Returns:
        str: One line per part, notes, and the line 'FLOPs: 218.4 G  Params: 29.7 M'.

    Raises:
        UserError: Impossible shape or config.
    """
    cfg = load_config(config, options)
    scope = cfg.get('default_scope', 'mmengine')
    if shape is None:
        shape = _SHAPES.get(scope, _DETECTION_SHAPE)
    if min(shape) < 32:
        raise UserError(f'--shape: at least 32 32 is needed, found {shape[0]} {shape[1]}.')
    divisor = cfg.model.get('data_preprocessor', {}).get('pad_size_divisor', 1)
    height, width = (math.ceil(side / divisor) * divisor for side in shape)
    channels = (cfg.model.get('backbone') or cfg.model).get('in_channels', 3)
    count = count_flops(build_model(cfg.model, scope), (1, channels, height, width))
    padded = f' (padded from {shape[0]} x {shape[1]})' if (height, width) != tuple(shape) else ''
    lines = [f'one image of {height} x {width}{padded}; multiply-adds up to the raw predictions:']
    lines += [f'  {name:<16}{flops / 1e9:9.2f} G' for name, flops in count.parts.items()]
    lines += [f'  {note}' for note in count.notes]
    return '\n'.join([*lines, str(count)])
