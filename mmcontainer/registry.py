"""The scope 'mmcontainer', which MMEngine gives to all that comes out of ``mmcontainer::`` configs.

Backbones and hooks are registered in MMEngine's root registries, where every library finds them.
These children of theirs are empty and only lead there: without them MMEngine would warn that
mmcontainer is not installed each time it builds something out of such a config.
"""
from mmengine.registry import Registry, root

SCOPE = 'mmcontainer'
REGISTRIES = [
    Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for parent in vars(root).values() if isinstance(parent, Registry)]
