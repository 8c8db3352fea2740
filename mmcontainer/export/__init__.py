"""Whole detectors as ONNX files: pixels in, detections out, post-processing included.

::

    images, uint8 --> pixels.py --> backbone, neck --> a head's module --> dets, labels (, masks)
                                                         |
                        dense.py (RetinaNet)  <----------+----> queries.py, deformable.py (DETR ...)
                        regions.py (R-CNN) <-- dense.py's proposals

Every operation is made for a batch and has a shape that depends on the size of the images alone,
never on what they show: places that no detection fills have score 0 and label -1. ``graph.py`` puts
the parts together. ``onnx_file.py`` writes any module as a file, ``comparison.py`` compares a file
with PyTorch, ``evaluation.py`` measures its AP, and ``quantization.py`` makes an int8 file of it.

It needs PyTorch 2.6 and, but for ``onnx_file.py``, MMDetection.
"""
