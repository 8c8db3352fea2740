"""Pictures of what a classifier says."""
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from .picture_names import PictureNames, dataset_images

_MIN_SIDE = 224  # in pixels; the text on smaller pictures could not be read


@HOOKS.register_module()
class DrawLabelsHook(Hook):
    """Draw the images of the test data with their labels and MMPretrain's predictions.

    MMPretrain's own ``VisualizationHook`` hands images in BGR to a visualizer that takes them for
    RGB, and images of the same name in different folders overwrite each other.

    Args:
        out_dir (str): Folder for the pictures, which becomes what the images' folders have in
            common.
    """

    def __init__(self, out_dir: str):
        self.out_dir = Path(out_dir)

    def before_test(self, runner) -> None:
        self._names = PictureNames(self.out_dir, dataset_images(runner.test_dataloader.dataset))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for image, sample in zip(data_batch['inputs'], outputs):
            # The data preprocessor, which comes after, knows the order of the channels.
            image = image.flip(0) if model.data_preprocessor.to_rgb else image
            runner.visualizer.visualize_cls(
                image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy(),  # grey ones too
                sample,
                resize=max(_MIN_SIDE, min(image.shape[1:])),
                out_file=str(self._names(sample.img_path)))
