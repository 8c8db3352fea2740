"""Real photographs through the unchanged configs, and the example of docs/custom_dataset.md."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmcontainer  # noqa: F401  lets configs name mmcontainer::
from mmcontainer.cli.data_root import set_data_root

pytestmark = pytest.mark.slow
# One image for training and one for evaluation: a step at 1333 x 800 takes most of a minute. They
# are of the smallest in coco128: 640 x 218, with 18 objects, and 612 x 612.
FEW = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=[59]',
       'train_dataloader.batch_size=1', 'val_dataloader.dataset.indices=[17]',
       'default_hooks.logger.interval=1']


# So early a RetinaNet scores everything below its threshold, and nothing would be evaluated.
ALL_SCORES = 'model.test_cfg.score_thr=0.'


@pytest.mark.parametrize(('detector', 'metric', 'extra'), [
    ('retinanet', 'bbox', [ALL_SCORES]),
    ('mask_rcnn', 'segm', []),
])
def test_coco_photographs_train_and_evaluate_at_full_size(
        repo_root, real_data, run_tool, detector, metric, extra):
    config = repo_root / 'configs' / detector / 'container_light_fpn_1x_coco.py'
    scales = [step.scale for step in Config.fromfile(config).train_pipeline if 'scale' in step]
    assert scales == [(1333, 800)]
    output = run_tool('train.py', config, '--data-root', real_data / 'coco128', '--from-scratch',
                      *FEW, *extra)
    assert re.search(r'Epoch\(train\) \[1\]\[1/1\].* loss: [\d.]+', output)
    assert re.search(rf'coco/{metric} +-?[\d.]+', output)


def _memory_mb(field):
    """VmRSS (now) or VmHWM (peak) of this process."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status)[1]) / 1024


@pytest.mark.parametrize(('detector', 'backbone', 'changes', 'scale', 'limit_mb'), [
    # 16000 positions in stage 1, with matrices of 1 GB each; in 1333 x 800 it takes a minute.
    ('retinanet', 'container_base', {}, (667, 400), 700),
    ('mask_rcnn', 'container_base', dict(kv_stride=(8, 4, 2, 1)), (1333, 800), 2000),
    # With 12 heads 0.8 GB in every one of the five blocks of stage 3.
    ('mask_rcnn', 'coatnet_0', {}, (1333, 800), 2000)])
def test_attention_detects_in_bounded_memory(
        repo_root, real_data, detector, backbone, changes, scale, limit_mb):
    from mmdet.apis import inference_detector
    cfg = Config.fromfile(repo_root / 'configs' / detector / f'{backbone}_fpn_1x_coco.py')
    cfg.model.backbone.update(init_cfg=None, **changes)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval()
    assert cfg.test_pipeline[1].scale == (1333, 800)
    cfg.test_dataloader.dataset.pipeline[1].scale = scale
    model.cfg, model.dataset_meta = cfg, {}
    image = sorted((real_data / 'coco128' / 'val2017').glob('*.jpg'))[0]
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _memory_mb('VmRSS')
    sample = inference_detector(model, str(image))
    assert max(sample.img_shape) == scale[0] or min(sample.img_shape) == scale[1]
    assert sample.pred_instances.scores.isfinite().all()
    assert _memory_mb('VmHWM') - before < limit_mb


@pytest.fixture
def documented(repo_root, tmp_path):
    """Return a function that writes the configs of docs/custom_dataset.md: 'bccd' or 'people'."""
    text = (repo_root / 'docs' / 'custom_dataset.md').read_text(encoding='utf-8')
    boxes, masks, more = re.findall(r'```python\n(.*?)```', text, re.DOTALL)

    def write(name):
        path = tmp_path / f'{name}.py'
        path.write_text(dict(bccd=boxes, people=masks)[name])
        extended = tmp_path / f'{name}_more.py'
        extended.write_text(f"_base_ = './{name}.py'\n{more}")
        return extended

    return write


def test_documented_config_names_all_classes(documented):
    cfg = Config.fromfile(documented('bccd'))
    set_data_root(cfg, 'elsewhere')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert len(dataset.metainfo.classes) == cfg.model.bbox_head.num_classes == 3
        assert dataset.data_root == 'elsewhere/'
    assert cfg.val_evaluator.ann_file == 'elsewhere/annotations/val.json'


def test_documented_masks(documented):
    """Both heads, both pipelines and the evaluator agree; the additions change what they say."""
    cfg = Config.fromfile(documented('people'))
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 3
    init_default_scope('mmdet')
    assert type(MODELS.build(cfg.model).roi_head.mask_head).__name__ == 'SmallInitMaskHead'
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert len(dataset.metainfo.classes) == 3
        assert [step.with_mask for step in dataset.pipeline if step.type == 'LoadAnnotations'] == [
            True]
    assert cfg.val_evaluator.metric == ['bbox', 'segm'] and cfg.val_evaluator.classwise
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_documented_masks_train_on_photographs(documented, real_data, run_tool, tmp_path):
    output = run_tool('train.py', documented('people'), '--data-root', real_data / 'coco128',
                      '--from-scratch', '--work-dir', 'work', *FEW,
                      'train_dataloader.dataset.indices=1', 'val_dataloader.dataset.indices=1',
                      'model.test_cfg.rcnn.score_thr=0.')
    loss = re.search(r'Epoch\(train\) \[1\]\[1/1\].* loss_mask: ([\d.]+)', output)
    assert 0.6 < float(loss[1]) < 0.8
    assert re.search(r'coco/segm +-?[\d.]+', output) and '| person' in output
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file() and list(tmp_path.glob('work/best_coco*'))


def test_documented_config_trains_on_blood_cells(documented, real_data, run_tool):
    output = run_tool('train.py', documented('bccd'), '--data-root', real_data / 'bccd',
                      '--from-scratch', '--cfg-options', 'train_cfg.max_epochs=1',
                      'train_cfg.val_interval=1', 'train_dataloader.dataset.indices=4',
                      'train_dataloader.batch_size=2', 'val_dataloader.dataset.indices=2',
                      'default_hooks.logger.interval=1', ALL_SCORES)
    assert re.search(r'Epoch\(train\) \[1\]\[2/2\].* loss: [\d.]+', output)
    assert re.search(r'coco/bbox +-?[\d.]+', output)
