"""What random weights need that ``--from-scratch`` does not change by itself."""
from .config_changes import iter_dicts

_SECTION = 'docs/numerics.md, "Mask R-CNN from random weights"'


def scratch_advice(cfg) -> list[str]:
    """Say what makes it hard for a two-stage detector to learn from random weights.

    It is advice only: norms in the neck and other heads make another model than the config's.

    Args:
        cfg (Config): A config whose pretrained weights have been given up; not changed.

    Returns:
        list[str]: One line if ``model`` has a ``roi_head`` and the neck or a head of its own has
        no norms, or if its mask head starts far from a prediction of one half; else nothing.
    """
    if not cfg.model.get('roi_head'):
        return []
    parts = [('model.neck', cfg.model.get('neck') or {})]
    parts += [(path, node) for path, node in iter_dicts(cfg.model.roi_head, 'model.roi_head')
              if node.get('num_classes') is not None]
    without = [path for path, node in parts if node and not node.get('norm_cfg')]
    large = [path for path, node in parts if _is(node, 'FCNMaskHead') and node.num_classes < 80]
    found = [f'no norms in {", ".join(without)}'] if without else []
    found += [f'the first loss of {", ".join(large)} is too large'] if large else []
    if not found:
        return []
    return [f'made for pretrained weights: {"; ".join(found)} (see {_SECTION})']


def _is(node: dict, name: str) -> bool:
    kind = node.get('type')
    return getattr(kind, '__name__', str(kind).split('.')[-1]) == name
