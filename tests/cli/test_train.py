"""What ``tools/train.py`` makes of a config."""
import pytest
from mmengine.config import Config

from mmcontainer.cli.console import build_runner
from mmcontainer.cli.train import compare_with_published, keep_config
from mmcontainer.engine import OnTrackHook
from mmcontainer.paper.curves import load_curves


@pytest.mark.parametrize('name', [
    'mask_rcnn/cotnet_50_fpn_1x_coco', 'cascade_rcnn/se_cotnetd_101_fpn_1x_coco',
    'retinanet/r50_fpn_1x_coco'])
def test_a_published_run_is_compared_with(name, repo_root):
    cfg = Config.fromfile(repo_root / f'configs/{name}.py')
    hooks = [*cfg.custom_hooks]
    for _ in range(2):  # the config that a training leaves in its work dir has it already
        compare_with_published(cfg, f'mmcontainer::{name}.py')
    assert cfg.custom_hooks == [*hooks, dict(type='OnTrackHook', run=name)]
    assert OnTrackHook(name).run is load_curves()[name]


def test_other_configs_are_left_alone(tmp_path):
    name = 'mask_rcnn/cotnet_50_fpn_1x_coco.py'
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(f"_base_ = 'mmcontainer::{name}'")
    cfg = Config.fromfile(path)
    hooks = [*cfg.custom_hooks]
    compare_with_published(cfg, str(path))
    compare_with_published(cfg, 'mmcontainer::retinanet/container_light_fpn_1x_coco.py')
    assert cfg.custom_hooks == hooks


def test_a_work_dir_keeps_the_config_of_a_training_that_starts(tmp_path):
    """A test, and what is refused, must not replace it; nor does it resume by itself."""
    source = tmp_path / 'mine.py'
    source.write_text("model = dict(type='mmengine.BaseDataPreprocessor')\nresume = False\n")
    cfg = Config.fromfile(str(source))
    cfg.work_dir, cfg.load_from, cfg.resume = str(tmp_path / 'work'), 'epoch_3.pth', True
    for verbose in (False, True):
        cfg.experiment_name = f'kept_{verbose}'
        runner = build_runner(cfg, verbose)
    assert not (tmp_path / 'work' / 'mine.py').exists()
    keep_config(runner, 'weights.pth')
    kept = Config.fromfile(str(tmp_path / 'work' / 'mine.py'))
    assert (kept.load_from, kept.resume) == ('weights.pth', False)
    assert (runner.cfg.load_from, runner.cfg.resume) == ('epoch_3.pth', True)
