"""Pictures of what a detector finds, beside the ground truth."""
from pathlib import Path

import mmcv
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..pipeline import build_pipeline, decode
from .picture_names import PictureNames, dataset_images


@HOOKS.register_module()
class DrawDetectionsHook(Hook):
    """Draw the images of the test data with MMDetection's predictions.

    MMDetection's own ``DetVisualizationHook`` turns images as EXIF says, whatever the pipeline
    does, hides small objects under their labels, and images of the same name in different folders
    overwrite each other. With several processes the first one draws its images, as MMDetection's.

    Args:
        out_dir (str): Folder for the pictures, which becomes what the images' folders have in
            common.
        score_thr (float): Detections with a lower score are left out.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3):
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def before_test(self, runner) -> None:
        from ..visualization.detections import DetectionVisualizer, style_of
        dataset = runner.test_dataloader.dataset
        self._names = PictureNames(self.out_dir, dataset_images(dataset))
        self._transforms = build_pipeline(runner.cfg)
        self._visualizer = DetectionVisualizer(dataset.metainfo, **style_of(runner.cfg))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not is_main_process():
            return
        from ..visualization.detections import as_rgb
        for sample in outputs:
            # The pixels that the network saw, before they were resized.
            image = as_rgb(decode(self._transforms, sample.img_path)[0]['img'])
            target = self._names(sample.img_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if 'pred_panoptic_seg' in sample or 'pred_sem_seg' in sample:
                # Drawn by MMDetection's part of the visualizer.
                self._visualizer.add_datasample('', image, sample, out_file=str(target),
                                                pred_score_thr=self.score_thr)
                continue
            picture = self._visualizer.draw(image, sample.cpu(), self.score_thr, truth=True)
            mmcv.imwrite(picture[..., ::-1], str(target))
