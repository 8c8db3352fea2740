"""The scope 'mmcontainer', which MMEngine gives to all that comes out of ``mmcontainer::`` configs.

Everything of this package is registered in MMEngine's root registries, where every library finds
it. These children of theirs are empty and only lead there: without them MMEngine would warn that
mmcontainer is not installed each time it builds something out of such a config.
"""
from collections.abc import Callable
from importlib import import_module

from mmengine.registry import Registry, root

DETECTORS = ('SMCADETR', 'SMCAHead', 'SmallInitMaskHead')
SCOPE = 'mmcontainer'
REGISTRIES = [
    Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for parent in vars(root).values() if isinstance(parent, Registry)]


def register_detectors() -> None:
    """Register the detectors by name; what they subclass takes seconds to import.

    The first that is built imports :mod:`mmcontainer.detectors`, which registers all of them in
    MMDetection's registry. Where MMDetection is missing, building one says so.
    """
    for name in DETECTORS:
        root.MODELS.register_module(name=name, module=_lazy_builder(name), force=True)


def _lazy_builder(name: str) -> Callable:
    def build(**kwargs):
        try:
            detectors = import_module('mmcontainer.detectors')
        except ImportError as error:
            raise ImportError(
                f'{name} is built on MMDetection 3.x, which cannot be imported: {error}. '
                'python -m mmcontainer.doctor says what to install.') from error
        return getattr(detectors, name)(**kwargs)

    return build
