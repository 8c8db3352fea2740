"""A metric that writes predicted segmentation maps to a file."""
from collections.abc import Sequence

from mmengine.evaluator import DumpResults
from mmengine.registry import METRICS


@METRICS.register_module()
class DumpMaps(DumpResults):
    """``DumpResults`` without logits: they take 4 bytes per class and pixel, 200 MB an image.

    Args:
        **kwargs: See :class:`mmengine.evaluator.DumpResults`.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        super().process(data_batch, [
            {key: value for key, value in sample.items() if key != 'seg_logits'}
            for sample in data_samples])
