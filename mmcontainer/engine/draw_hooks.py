"""Hooks that draw test images: detections, segmentation maps, and labels of classifiers."""
import os
from collections.abc import Iterable
from pathlib import Path

import mmcv
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..errors import UserError
from ..pipeline import build_pipeline, decode
from .deploy import unwrap

_WRITTEN = ('.jpg', '.jpeg', '.png')  # other formats may be read only
_MIN_SIDE = 224  # in pixels; the text on smaller pictures could not be read


class PictureNames:
    """Names like those of the images, in folders like theirs.

    Args:
        folder (Path): Folder for the pictures.
        images (Iterable[str]): Paths of all images; the folder that they have in common becomes
            ``folder``.

    Raises:
        UserError: A picture would replace one of the images.
    """

    def __init__(self, folder: Path, images: Iterable[str]):
        images = list(images)
        self.folder = folder
        self._root = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in images})
        replaced = [path for path in map(self, images) if path.exists()]
        originals = set(map(os.path.realpath, images)) if replaced else set()
        if originals.intersection(map(os.path.realpath, replaced)):
            raise UserError(f'{folder} holds images that are tested on: their pictures would '
                            'replace them. Name another folder.')

    def __call__(self, image: str) -> Path:
        """Return the path of the picture for one of the images."""
        name = os.path.relpath(os.path.abspath(image), self._root)
        if not name.lower().endswith(_WRITTEN):
            name += '.jpg'
        return self.folder / name


def dataset_images(dataset) -> list[str]:
    """Paths of all images of a data set."""
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


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


class _DrawHook(Hook):
    """Knows the names of the pictures."""

    def __init__(self, out_dir: str):
        self.out_dir = Path(out_dir)

    def before_test(self, runner) -> None:
        self._names = PictureNames(self.out_dir, dataset_images(runner.test_dataloader.dataset))


@HOOKS.register_module()
class DrawMapsHook(_DrawHook):
    """Draw the images of the test data with true maps (left) and MMSegmentation's predictions.

    MMSegmentation's own ``SegVisualizationHook`` writes into the work dir only, and images of the
    same name in different folders overwrite each other.

    Args:
        out_dir (str): Folder for the pictures, which becomes what the images' folders have in
            common.
    """

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for sample in outputs:
            target = self._names(sample.img_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            runner.visualizer.add_datasample(
                '', mmcv.imread(sample.img_path, channel_order='rgb'), sample,
                out_file=str(target))


@HOOKS.register_module()
class DrawLabelsHook(_DrawHook):
    """Draw the images of the test data with their labels and MMPretrain's predictions.

    MMPretrain's own ``VisualizationHook`` hands images in BGR to a visualizer that takes them for
    RGB, and images of the same name in different folders overwrite each other.

    Args:
        out_dir (str): Folder for the pictures, which becomes what the images' folders have in
            common.
    """

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        model = unwrap(runner.model)
        images = data_batch['inputs']
        if isinstance(images[0], (list, tuple)):  # one list per augmentation, the plain image first
            images = images[0]
        for image, sample in zip(images, outputs):
            # The data preprocessor, which comes after, knows the order of the channels.
            image = image.flip(0) if model.data_preprocessor.to_rgb else image
            runner.visualizer.visualize_cls(
                image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy(),  # grey ones too
                sample,
                resize=max(_MIN_SIDE, min(image.shape[1:])),
                out_file=str(self._names(sample.img_path)))
