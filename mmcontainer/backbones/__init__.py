"""Backbones, registered in MMEngine's root registry so that every OpenMMLab library finds them."""
from .base import BaseBackbone
from .container import Container, ContainerLight
from .cotnet import CoTNet

__all__ = ['BaseBackbone', 'CoTNet', 'Container', 'ContainerLight']
