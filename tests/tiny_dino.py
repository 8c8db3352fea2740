"""The tiny network of the official run, and a runner that repeats the run."""
import numpy as np
import torch
from golden_rule import GOLDEN, draw, make_state_dict
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn

from mmcontainer.selfsup import DINO

EPOCHS, ITERATIONS, IMAGES = 3, 4, 3
SIZES = (16, 16, 8, 8, 8)


@MODELS.register_module()
class TinyPyramid(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 10, 2, 2), nn.BatchNorm2d(10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x)).mean((2, 3))


class Crops(torch.utils.data.Dataset):
    """Crops of the official run, image by image."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return ITERATIONS * IMAGES

    def __getitem__(self, index):
        batch, image = divmod(index, IMAGES)
        step = self.epoch * ITERATIONS + batch
        return dict(inputs=[
            torch.from_numpy(draw(1, f'crop{crop}.it{step}', (IMAGES, 3, size, size))[image]
                             ).double() for crop, size in enumerate(SIZES)])


class Recorder(Hook):
    """Keeps what the official run stored, and interrupts where it is told to."""

    def __init__(self, stop_at=None):
        self.losses, self.states, self.stop_at = [], [], stop_at

    def before_train_epoch(self, runner):
        runner.train_dataloader.dataset.epoch = runner.epoch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        if runner.iter == self.stop_at:
            raise KeyboardInterrupt

    def after_train_epoch(self, runner):
        self.states.append({key: value.clone() for key, value in
                            runner.model.state_dict().items()})


def make_model(**loss):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = DINO(
            backbone=dict(type='TinyPyramid'),
            head=dict(type='DINOHead', in_channels=10, out_channels=24, hidden_channels=32,
                      bottleneck_channels=8),
            loss=loss,
            teacher_momentum=0.9,
            data_preprocessor=dict(type='mmengine.BaseDataPreprocessor'))
        model.init_weights()
    weights = make_state_dict('dino_run', seed=1, gain=1.)
    weights['head.last_layer.weight_g'] = torch.ones(24, 1)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert all(key.startswith(('teacher.', 'dino_loss.')) for key in missing)
    model.teacher.module.load_state_dict(weights)
    return model.double()


def make_runner(work_dir, recorder, resume=False, **changes):
    """A runner over the official run; ``changes`` replace its arguments."""
    values = np.load(GOLDEN / 'dino_run.npz')
    arguments = dict(
        model=make_model(teacher_temp=0.07, warmup_teacher_temp=0.04, warmup_epochs=2),
        work_dir=str(work_dir),
        train_dataloader=dict(batch_size=IMAGES, num_workers=0, dataset=Crops(),
                              sampler=dict(type='DefaultSampler', shuffle=False),
                              collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=float(values['lr'].max()), weight_decay=0.04),
            paramwise_cfg=dict(flat_decay_mult=0.),
            clip_grad=dict(max_norm=float(values['clip']))),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-9, end=1, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', eta_min=1e-5, begin=1, convert_to_iter_based=True),
            dict(type='CosineAnnealingWeightDecay', eta_min=0.4, convert_to_iter_based=True)],
        custom_hooks=[dict(type='DINOHook', freeze_last_layer=1), recorder],
        default_scope='mmpretrain',
        resume=resume,
        experiment_name=f'{work_dir.name}_{resume}_{id(recorder)}',
        log_level='ERROR')
    return Runner(**{**arguments, **changes})
