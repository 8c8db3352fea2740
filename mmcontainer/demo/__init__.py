"""The demo: a generated data set of textured shapes in COCO format, and a detector trained on it.

``python -m mmcontainer.demo.shapes OUT`` makes the data set alone.
"""
from .generate import ShapesParams, generate_shapes
from .maps import MAP_CLASSES, write_maps
from .scenes import CLASSES

__all__ = ['CLASSES', 'MAP_CLASSES', 'ShapesParams', 'generate_shapes', 'write_maps']
