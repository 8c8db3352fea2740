"""Walking through a config: its dicts, data sets, evaluators, and the classes that it names."""
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine import registry

SPLITS = ('train', 'val', 'test')
# The registries of the classes that configs name; every library has all of these.
_REGISTRIES = (
    registry.MODELS, registry.DATASETS, registry.DATA_SAMPLERS, registry.TRANSFORMS, registry.HOOKS,
    registry.LOOPS, registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS,
    registry.METRICS, registry.EVALUATOR, registry.VISUALIZERS, registry.VISBACKENDS,
    registry.LOG_PROCESSORS, registry.TASK_UTILS, registry.WEIGHT_INITIALIZERS)


def iter_dicts(node, path: str) -> Iterator[tuple[str, dict]]:
    """Yield (dotted path, dict) of a node of a config and of every dict inside it."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from iter_dicts(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from iter_dicts(value, f'{path}.{index}')


def iter_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the configs of the data sets that read files, below any number of wrappers.

    Args:
        dataset (dict): Data set config. A wrapper holds another one as ``dataset``, or several as
            ``datasets``: ConcatDataset, RepeatDataset, ClassBalancedDataset, MultiImageMixDataset
            ...

    Yields:
        dict: The innermost configs themselves, not copies.
    """
    inner = dataset.get('datasets') or [dataset['dataset']] if (
        'datasets' in dataset or 'dataset' in dataset) else []
    for child in inner:
        yield from iter_datasets(child)
    if not inner:
        yield dataset


def loader_datasets(cfg, splits: Sequence[str] = SPLITS) -> list[dict]:
    """Configs of all innermost data sets of some splits."""
    loaders = [cfg.get(f'{split}_dataloader') for split in splits]
    return [leaf for loader in loaders if loader for leaf in iter_datasets(loader['dataset'])]


def evaluators(cfg, splits: Sequence[str] = SPLITS) -> list[dict]:
    """Configs of all evaluators of some splits."""
    found = []
    for split in splits:
        evaluator = cfg.get(f'{split}_evaluator') or []
        found.extend([evaluator] if isinstance(evaluator, dict) else evaluator)
    return found


def join_path(*parts: Optional[str]) -> Path:
    """Join parts, of which a later absolute one replaces the earlier; '~' is the home folder."""
    return Path(*(Path(part or '').expanduser() for part in parts))


def find_class(name: Any, scope: str) -> Optional[Any]:
    """Return what ``type=name`` stands for in any registry of a library, None if it is unknown."""
    if not isinstance(name, str):
        return name
    for root in _REGISTRIES:
        with root.switch_scope_and_registry(scope) as library:
            found = library.get(name)
        if found is not None:
            return found
    return None


def constructor_arguments(cls: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Arguments of a class, followed up through ``**kwargs``; and whether it accepts any other."""
    found = {}
    for owner in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
        function = vars(owner).get('__init__') if inspect.isclass(cls) else owner
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name != 'self':
                found.setdefault(one.name, one)
        if not any(one.kind == one.VAR_KEYWORD for one in parameters):
            return found, False
    return found, True
