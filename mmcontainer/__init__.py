"""Container, CoTNet and CoAtNet backbones for MMDetection 3.x.

``import mmcontainer`` checks the versions of torch and OpenMMLab, and registers everything by
name; in a config one line does it::

    custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)

``mmcontainer.detectors`` registers SMCA-DETR and detectron2's cascade, and is imported in the same
way: it needs MMDetection.
"""
from . import compat
from .version import __version__

__all__ = ['__version__']

compat.check_versions()
try:
    compat.register_config_scope()
    compat.allow_mmengine_checkpoints()
    from . import backbones, engine, registry  # noqa: F401
except (ImportError, OSError) as error:  # OSError: a shared library of torch does not load
    raise ImportError(f'mmcontainer cannot be imported, because something in this environment is '
                      f'broken ({error}): `{compat.doctor_command()}` says how to mend it.'
                      ) from error
