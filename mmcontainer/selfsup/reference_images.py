"""Telling reference images of a k-NN evaluation from those that are classified."""
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MarkReference(BaseTransform):
    """Mark images as references for :class:`KNNAccuracy`, in the pipeline of their data set.

    ``PackInputs`` hands the mark on with ``algorithm_keys=('is_reference', )``.
    """

    def transform(self, results: dict) -> dict:
        results['is_reference'] = True
        return results
