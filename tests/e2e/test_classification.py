"""From images in folders to a classifier, and from its checkpoint to a detector, as a user does it.

The configs are real ones on few small images: their augmentation, sampler, loss and optimizer, but
not the precision, which needs a GPU. Container learns; CoTNet shows that its averaged weights are
evaluated, resumed and loaded.
"""
import pickle
import re

import mmcv
import numpy as np
import pytest
import torch
from tool_server import Tools

from mmcontainer.checkpoints import load_file
from mmcontainer.cli.configs import load_config

pytestmark = pytest.mark.slow

CLASSES = ('checks', 'discs', 'horizontal', 'vertical')
NUM_TRAIN, NUM_VAL = 40, 15  # images per class
EPOCHS = 16
ARCH = dict(
    embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4),
    patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
    static=dict(kind='depthwise', kernel_size=5))
DATA = f"""\
data_preprocessor = dict(num_classes=4)
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 64
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 64
test_pipeline[2].crop_size = 64
metainfo = dict(classes={CLASSES})
"""
EVALUATION = """\
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
"""
CONFIG = f"""
_base_ = 'mmcontainer::imagenet/container_light_8xb128_in1k.py'

model = dict(
    backbone=dict(type='Container', arch=dict(_delete_=True, **{ARCH})),
    head=dict(num_classes=4, in_channels=64))
{DATA}train_dataloader = dict(
    batch_size=16, num_workers=2, dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=20, num_workers=0, dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
{EVALUATION}optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=4e-3))  # float32, on a CPU
train_cfg = dict(max_epochs={EPOCHS}, val_interval=4)
# Epochs are few, so that the rate rises within them.
warmup, cosine = _base_.param_scheduler[1:]
warmup.update(begin=0, end=2, convert_to_iter_based=True)
cosine.begin = 2
param_scheduler = [warmup, cosine]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
"""

COT_EPOCHS = 2
COT_ARCH = dict(
    stem='conv7', embed_dims=(32, 32, 64, 64), widths=(16, 16, 32, 32), depths=(1, 1, 1, 1),
    layers=('cot', 'cot', 'cot', 'cot'), blur=False)
COT_CONFIG = f"""
_base_ = 'mmcontainer::imagenet/cotnet_50_8xb80_in1k.py'

model = dict(
    backbone=dict(arch=dict(_delete_=True, **{COT_ARCH})),
    head=dict(num_classes=4, in_channels=64))
{DATA}train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False,
    dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=20, num_workers=0, persistent_workers=False,
    dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
{EVALUATION}optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_epochs={COT_EPOCHS})
param_scheduler = [_base_.param_scheduler[1]]
custom_hooks = _base_.custom_hooks
custom_hooks[2].momentum = 0.1  # an average of ten iterations, since there are few
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
"""


def draw(name, generator, size=64):
    """Draw a noisy texture in two random colours, of random period and phase."""
    rows, columns = np.mgrid[:size, :size]
    half = int(generator.integers(4, 9))
    across, down = ((axis + generator.integers(2 * half)) // half for axis in (columns, rows))
    mask = {'checks': across + down, 'horizontal': down, 'vertical': across}.get(name)
    if mask is None:
        centres = generator.integers(0, size, (12, 2))
        mask = sum((rows - y)**2 + (columns - x)**2 < half**2 for y, x in centres) > 0
    dark, bright = generator.integers(0, 100, 3), generator.integers(140, 256, 3)
    picture = np.where(mask[..., None] % 2, bright, dark)
    return (picture + generator.normal(0, 12, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    """Images in the layout of ImageNet, four classes of textures."""
    root = tmp_path_factory.mktemp('textures')
    generator = np.random.default_rng(0)
    for split, number in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        for name in CLASSES:
            for index in range(number):
                file = root / split / name / f'{name}_{index:02d}.png'
                mmcv.imwrite(draw(name, generator), str(file))
    return root


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The tiny derivative of the real config, as a file without a seed."""
    path = tmp_path_factory.mktemp('config') / 'textures.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def classifier(image_folder, config, tmp_path_factory):
    """Train once: (work dir, output)."""
    work_dir = tmp_path_factory.mktemp('classifier')
    # Launched, and not forked from a process that has imported MMDetection, too.
    output = Tools(work_dir)('train.py', config, '--data-root', image_folder, '--work-dir',
                             work_dir, '--from-scratch', '--cfg-options', 'randomness.seed=0')
    return work_dir, output


def accuracies(output):
    return [float(value) for value in re.findall(r'accuracy +([\d.]+)', output)]


def test_it_learns(classifier, read_losses):
    """Chance is 25 %; seeds 0, 1 and 2 gave 97, 82 and 93 % after 12 epochs."""
    work_dir, output = classifier
    assert 'nothing was pretrained or frozen' in output
    assert 'mmcontainer is not installed' not in output
    assert len(accuracies(output)) == EPOCHS // 4 and accuracies(output)[-1] >= 70
    losses = read_losses(work_dir)
    assert len(losses) == EPOCHS * len(CLASSES) * NUM_TRAIN // 16
    kept = sorted(path.name for path in work_dir.glob('*.pth'))
    assert kept == ['epoch_14.pth', 'epoch_15.pth', 'epoch_16.pth']


def test_evaluation_equals_the_last_of_training(classifier, config, image_folder, run_tool,
                                                tmp_path):
    work_dir, training = classifier
    output = run_tool('test.py', config, work_dir / f'epoch_{EPOCHS}.pth', '--data-root',
                      image_folder, '--out', 'out.pkl', '--show-dir', 'drawn')
    assert accuracies(output) == accuracies(training)[-1:]
    results = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    hits = [int(result['pred_label']) == int(result['gt_label']) for result in results]
    assert len(hits) == len(CLASSES) * NUM_VAL
    assert 100 * np.mean(hits) == pytest.approx(accuracies(output)[0], abs=1e-3)
    drawn = sorted(path.relative_to(tmp_path / 'drawn') for path in tmp_path.glob('drawn/*/*'))
    files = sorted(path.relative_to(image_folder / 'val') for path in image_folder.glob('val/*/*'))
    assert drawn == files
    # Below the text, pictures have their own colours, and not those with red and blue exchanged.
    own = exchanged = 0
    for file in files:
        pictures = [mmcv.imread(str(root / file))
                    for root in (tmp_path / 'drawn', image_folder / 'val')]
        drawn, original = (picture[len(picture) // 2:].mean(axis=(0, 1)) for picture in pictures)
        own += np.abs(drawn - original).sum()
        exchanged += np.abs(drawn - original[::-1]).sum()
    assert pictures[0].shape == (224, 224, 3) and own < exchanged / 10


def test_resuming(classifier, config, image_folder, run_tool, tmp_path, read_losses):
    """The last two epochs again, from the checkpoint before them: the same losses."""
    work_dir, training = classifier
    output = run_tool('train.py', config, '--data-root', image_folder, '--work-dir', 'again',
                      '--resume', work_dir / f'epoch_{EPOCHS - 2}.pth')
    whole, again = read_losses(work_dir), read_losses(tmp_path / 'again')
    assert len(again) == len(whole) * 2 // EPOCHS
    assert again == {iteration: whole[iteration] for iteration in again}
    assert accuracies(output) == accuracies(training)[-1:]


def test_subset_and_mixed_precision(config, image_folder, run_tool, tmp_path, read_losses):
    run_tool('make_imagenet_subset.py', image_folder / 'train', '--share', 0.5, '--out',
             image_folder / 'meta' / 'train_50pct.txt')
    run_tool('train.py', config, '--data-root', image_folder, '--work-dir', 'work', '--amp', 'bf16',
             '--cfg-options', 'train_cfg.max_epochs=3',
             'train_dataloader.dataset.ann_file=meta/train_50pct.txt',
             env=dict(CUDA_VISIBLE_DEVICES=''))
    losses = [values['loss'] for values in read_losses(tmp_path / 'work').values()]
    assert len(losses) == 3 * len(CLASSES) * NUM_TRAIN // 2 // 16
    assert all(0 < loss < 10 for loss in losses)
    state = load_file(tmp_path / 'work' / 'epoch_3.pth')['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def backbone_of_a_detector(name, checkpoint, arch):
    """Build RetinaNet with a small arch, and load the backbone as its config does."""
    from mmengine.registry import MODELS, init_default_scope
    cfg = load_config(f'mmcontainer::retinanet/{name}_fpn_1x_coco.py')
    if name.startswith('container'):
        cfg.model.backbone.type = 'Container'
    cfg.model.backbone.update(arch=arch, init_cfg=dict(
        type='StrictPretrained', checkpoint=str(checkpoint)))
    cfg.model.neck.in_channels = list(arch['embed_dims'])
    init_default_scope('mmdet')
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    return detector.backbone


def test_checkpoint_in_a_detector(classifier):
    """StrictPretrained would stop if anything were missing; every weight is the classifier's."""
    checkpoint = classifier[0] / f'epoch_{EPOCHS}.pth'
    backbone = backbone_of_a_detector('container_light', checkpoint, ARCH)
    trained = load_file(checkpoint)['state_dict']
    loaded = backbone.state_dict()
    assert len(loaded) > 100
    assert all(torch.equal(value, trained[f'backbone.{key}']) for key, value in loaded.items())
    # What the detector does not have are the classifier's last norm and layer.
    rest = trained.keys() - {f'backbone.{key}' for key in loaded}
    assert {key.rpartition('.')[0] for key in rest} == {'backbone.norm', 'head.fc'}


def test_averaged_weights_are_evaluated_resumed_and_loaded(image_folder, run_tool, tmp_path,
                                                           read_losses):
    config, options = tmp_path / 'textures_cotnet.py', ('--data-root', image_folder)
    config.write_text(COT_CONFIG)
    training = run_tool('train.py', config, *options, '--work-dir', 'whole', '--from-scratch',
                        '--cfg-options', 'randomness.seed=0')
    assert len(accuracies(training)) == COT_EPOCHS
    assert list(tmp_path.glob('whole/best_accuracy_top1_epoch_*.pth'))
    path = tmp_path / 'whole' / f'epoch_{COT_EPOCHS}.pth'
    output = run_tool('test.py', config, path, *options)
    assert accuracies(output) == accuracies(training)[-1:]

    output = run_tool('train.py', config, *options, '--work-dir', 'again', '--resume',
                      path.with_name(f'epoch_{COT_EPOCHS - 1}.pth'))
    assert accuracies(output) == accuracies(training)[-1:]
    whole, again = (read_losses(tmp_path / name) for name in ('whole', 'again'))
    assert again and again == {iteration: whole[iteration] for iteration in again}
    checkpoint = load_file(path)
    resumed = load_file(tmp_path / 'again' / path.name)['state_dict']
    assert all(torch.equal(value, resumed[key]) for key, value in checkpoint['state_dict'].items())

    # The averages are the weights of a checkpoint; what is trained lies beside them.
    backbone = backbone_of_a_detector('cotnet_50', path, COT_ARCH)
    loaded = backbone.state_dict()
    assert all(torch.equal(value, checkpoint['state_dict'][f'backbone.{key}'])
               for key, value in loaded.items())
    for key in ('conv1.weight', 'bn1.weight', 'bn1.running_var', 'layer4.0.conv2.bn.running_mean'):
        assert not torch.equal(loaded[key], checkpoint['ema_state_dict'][f'module.backbone.{key}'])
