"""Container, CoTNet and CoAtNet backbones for MMDetection 3.x.

``import mmcontainer`` checks the versions of torch and OpenMMLab, and registers everything by
name; in a config one line does it::

    custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)

``mmcontainer.detectors`` registers SMCA-DETR and is imported in the same way: it needs MMDetection.
"""
from . import compat
from .version import __version__

__all__ = ['__version__']

if not compat.running_doctor():
    compat.check_versions()
    compat.register_config_scope()
    compat.allow_mmengine_checkpoints()
    from . import backbones, engine, registry  # noqa: F401
