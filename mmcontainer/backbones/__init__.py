"""Backbones, registered in MMEngine's root registry so that every OpenMMLab library finds them."""
from .base import BaseBackbone
from .coatnet import CoAtNet
from .container import Container, ContainerLight
from .container_pam import ContainerPAM
from .cotnet import CoTNet

__all__ = ['BaseBackbone', 'CoAtNet', 'CoTNet', 'Container', 'ContainerLight', 'ContainerPAM']
