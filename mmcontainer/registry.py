"""The scope 'mmcontainer', which MMEngine gives to all that comes out of ``mmcontainer::`` configs.

Everything of this package is registered in MMEngine's root registries, where every library finds
it. These children of theirs are empty and only lead there: without them MMEngine would warn that
mmcontainer is not installed each time it builds something out of such a config.
"""
from collections.abc import Sequence
from importlib import import_module

from mmengine.registry import Registry, root

DETECTORS = ('SMCADETR', 'SMCAHead')
_DETECTORS_MODULE = 'mmcontainer.detectors'
SCOPE = 'mmcontainer'
REGISTRIES = [
    Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for parent in vars(root).values() if isinstance(parent, Registry)]


def register_detectors() -> None:
    """Let MMDetection find the detectors; what they subclass takes seconds to import.

    They are imported together with MMDetection's own models, or now if those are there already.
    Without MMDetection, building them says so.
    """
    try:
        from mmdet.registry import MODELS as mmdet_models
    except ImportError as error:
        _explain_missing(DETECTORS, error)
        return
    if mmdet_models._imported:
        import_module(_DETECTORS_MODULE)
    elif _DETECTORS_MODULE not in mmdet_models._locations:
        mmdet_models._locations.append(_DETECTORS_MODULE)


def _explain_missing(names: Sequence[str], error: ImportError) -> None:
    for name in names:
        def build(_name=name, **kwargs):
            raise ImportError(
                f'{_name} is built on MMDetection 3.x, which cannot be imported: {error}. '
                'python -m mmcontainer.doctor says what to install.')
        root.MODELS.register_module(name=name, module=build, force=True)
