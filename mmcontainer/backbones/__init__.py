"""Backbones, registered in MMEngine's root registry so that every OpenMMLab library finds them."""
from .base import BaseBackbone
from .container import Container, ContainerLight

__all__ = ['BaseBackbone', 'Container', 'ContainerLight']
