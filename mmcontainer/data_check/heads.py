"""The number of outputs of every head against the number of classes."""
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from ..cli.config_changes import iter_dicts
from ..cli.options import find_class
from .names import quote

# MMDetection's NumClassCheckHook has the same exceptions, on built models: region proposals know
# only "object", semantic heads of HTC and classifiers used as backbones count something else.
_OTHER_CLASSES = {'RPNHead', 'GARPNHead', 'CascadeRPNHead', 'FusedSemanticHead', 'VGG'}
_NO_HEADS = {'rpn_head', 'backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg',
             'init_cfg'}


def _default(cls: Any, key: str) -> Optional[int]:
    """Default of an argument, also of one that a base class takes through ``**kwargs``."""
    for owner in inspect.getmro(cls):
        function = vars(owner).get('__init__')
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        if key in parameters:
            default = parameters[key].default
            return default if isinstance(default, int) else None
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            return None
    return None


def _count(node: dict, cls: Any) -> Optional[tuple[int, str]]:
    """Number of classes that a module is built for and the key that says so; None if it has none.
    """
    if 'num_things_classes' in node and 'num_stuff_classes' in node:
        return node['num_things_classes'] + node['num_stuff_classes'], 'num_things_classes'
    if 'num_classes' in node:
        number = node['num_classes']
    else:
        number = _default(cls, 'num_classes') if inspect.isclass(cls) else None
    return (number, 'num_classes') if isinstance(number, int) else None


def iter_heads(cfg) -> Iterator[tuple[str, int, str]]:
    """Yield what in the model has outputs per class.

    Yields:
        tuple: Dotted key of the config that sets the number, the number, and a remark for one that
        is not in the config.
    """
    scope = cfg.get('default_scope', 'mmengine')
    for path, node in iter_dicts(cfg.get('model') or {}, 'model'):
        if _NO_HEADS & set(path.split('.')) or 'type' not in node:
            continue
        cls = find_class(node['type'], scope)
        if _OTHER_CLASSES & {base.__name__ for base in getattr(cls, '__mro__', ())}:
            continue
        found = _count(node, cls)
        if found is not None:
            number, key = found
            remark = '' if key in node else f' (the default of {cls.__name__})'
            yield f'{path}.{key}', number, remark


def check_heads(cfg, classes: Sequence[str], report) -> None:
    """Compare ``num_classes`` of every head of a config with the number of class names.

    Args:
        cfg (Config): With ``model``.
        classes (Sequence[str]): Names of the classes of the data.
        report (Report): Gets one problem that names all keys to change.
    """
    wrong = [head for head in iter_heads(cfg) if head[1] != len(classes)]
    if not wrong:
        return
    found = '\n'.join(f'  {key}={number}{remark}' for key, number, remark in wrong)
    options = ' '.join(f'{key}={len(classes)}' for key, _, _ in wrong)
    report.problems.append(
        f'The data has {len(classes)} classes ({quote(classes)}), but the model is built for '
        f'another number:\n{found}\nSet {"it" if len(wrong) == 1 else "them"} to {len(classes)} in '
        f'the config; on the command line: --cfg-options {options}')
