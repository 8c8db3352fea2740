"""The class names of a detector: those it was trained with, else those of its config."""
from typing import Any

from torch import nn

from ..config_nodes import find_class
from ..data_check.names import names_of, saved_meta
from ..errors import UserError
from ..pipeline import tested_dataset


def _colours(value, number: int) -> Any:
    """A palette that MMDetection can draw with: one colour per class, a name, or None."""
    if isinstance(value, (list, tuple)):
        return [tuple(colour) for colour in value] if len(value) >= number else None
    return value


def config_meta(cfg) -> dict[str, Any]:
    """``classes`` and ``palette`` of a config's test data, which are not read for it."""
    dataset = tested_dataset(cfg) or {}
    cls = find_class(dataset.get('type'), cfg.get('default_scope', 'mmengine'))
    if not hasattr(cls, '_load_metainfo'):  # of MMEngine's BaseDataset
        return {}
    given = {key: value for key, value in (dataset.get('metainfo') or {}).items()
             if key in ('classes', 'palette')}
    return cls._load_metainfo(given)


def find_meta(content: Any, cfg) -> tuple[dict[str, Any], str]:
    """Find the class names of a detector.

    Args:
        content (Any): Content of its checkpoint.
        cfg (Config): Its config, which counts where the checkpoint has no names.

    Returns:
        tuple: ``classes`` (names, or None) and ``palette`` (colours, or None) as MMDetection's
        ``dataset_meta``; and where the names come from, for people to read.
    """
    saved = saved_meta(content)
    own = config_meta(cfg)
    candidates = ((saved['classes'], 'named by the checkpoint'),
                  (names_of(own.get('classes')), 'named by the config'))
    classes, source = next((candidate for candidate in candidates if candidate[0] is not None),
                           (None, 'which nothing names'))
    palette = (_colours(candidate.get('palette'), len(classes or ())) for candidate in (saved, own))
    return dict(classes=classes, palette=next(filter(None, palette), None)), source


def _head_classes(model: nn.Module) -> set[int]:
    """``num_classes`` of the box heads of a detector, those of a cascade included."""
    return {module.num_classes for name, module in model.named_modules()
            if 'bbox_head' in name.split('.')[-2:] and hasattr(module, 'num_classes')}


def name_classes(model: nn.Module, content: Any, cfg) -> tuple[dict[str, Any], str]:
    """Find the names of the classes that a detector predicts.

    Args:
        model (nn.Module): Detector.
        content (Any): See :func:`find_meta`.
        cfg (Config): See :func:`find_meta`.

    Returns:
        tuple: As :func:`find_meta`; classes that nothing names are ``class 0`` and so on.

    Raises:
        UserError: If there are more or fewer names than the model has classes.
    """
    meta, source = find_meta(content, cfg)
    numbers = _head_classes(model)
    if meta['classes'] is None and numbers:
        meta['classes'] = tuple(f'class {number}' for number in range(max(numbers)))
    wrong = numbers - {len(meta['classes'] or ())}
    if wrong:
        names = ', '.join(meta['classes'][:5])
        raise UserError(
            f'The box head has num_classes={max(wrong)}, but there are {len(meta["classes"])} '
            f'classes {source}: {names}{" ..." if len(meta["classes"]) > 5 else ""}. Set '
            'test_dataloader.dataset.metainfo.classes of the config to the names of the data that '
            'the checkpoint was trained on, all in their order.')
    return meta, source
