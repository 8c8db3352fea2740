"""A generated COCO-format data set of textured shapes with boxes and masks, for the demo.

On the command line: ``python -m mmcontainer.datasets.shapes OUT --help``.
"""
from .generate import ShapesParams, generate_shapes
from .scenes import CLASSES

__all__ = ['CLASSES', 'ShapesParams', 'generate_shapes']
