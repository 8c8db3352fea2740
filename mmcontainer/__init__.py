"""Container, CoTNet and CoAtNet backbones for MMDetection 3.x.

``import mmcontainer`` checks the versions of torch and OpenMMLab, and registers everything by
name; in a config one line does it::

    custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)

In a program, ``Detector`` runs a trained detector, and ``create_model`` builds a backbone by name.

``mmcontainer.detectors`` registers SMCA-DETR and detectron2's cascade, and is imported in the same
way: it needs MMDetection.
"""
from importlib import import_module

from . import compat
from .version import __version__

# Modules of ``mmcontainer.api``, imported when they are asked for: they take time.
_LAZY = dict(Detector='detector', Detection='results', Detections='results',
             create_model='models', list_models='models', register_with_timm='models')

__all__ = ['Detection', 'Detections', 'Detector', '__version__', 'create_model', 'list_models',
           'register_with_timm']

compat.check_versions()
try:
    compat.register_config_scope()
    compat.allow_mmengine_checkpoints()
    from . import backbones, engine, registry  # noqa: F401
    from .api.timm_hook import register_when_imported
    register_when_imported()
except (ImportError, OSError) as error:  # OSError: a shared library of torch does not load
    raise ImportError(f'mmcontainer cannot be imported, because something in this environment is '
                      f'broken ({error}): `{compat.doctor_command()}` says how to mend it.'
                      ) from error


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.api.{_LAZY[name]}', __name__), name)


def __dir__():
    return sorted({*globals(), *_LAZY})
