"""Registration with timm whenever it is imported; it takes seconds, so it is not imported here."""
import sys
import warnings
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


def _register() -> None:
    from .models import register_with_timm
    try:
        register_with_timm()
    except Exception as error:  # timm itself works all the same
        warnings.warn(f'mmcontainer cannot register its backbones with this timm '
                      f'({type(error).__name__}: {error}); mmcontainer.create_model has them.',
                      stacklevel=2)


class _AfterTimm(MetaPathFinder):
    """Looks on while timm is imported, and registers when it is complete."""

    _is_asking = False

    def find_spec(self, name, path=None, target=None):
        if name != 'timm' or self._is_asking:
            return None
        self._is_asking = True  # the other finders, not this one
        try:
            spec = find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._execute, spec.loader.exec_module)
        return spec

    def _execute(self, execute, module):
        execute(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


def register_when_imported() -> None:
    """Register now if timm has been imported, else as soon as it is."""
    if 'timm' in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTimm())
