"""--cfg-options: keys that would be ignored are refused, legitimate ones are not."""
import argparse

import pytest

from mmcontainer.cli.configs import load_config
from mmcontainer.cli.options import OptionAction
from mmcontainer.errors import UserError

CONFIG = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'


@pytest.mark.parametrize('key, hint', [
    ('train_dataloder.batch_size', "'train_dataloader'"),
    ('train_cfg.max_epoch', "'max_epochs'"),
    ('model.backbone.archh', "'arch'"),
    ('model.bbox_head.num_clases', "'num_classes'"),
    ('optim_wrapper.optimizer.lrr', "'lr'"),
    ('train_dataloader.num_worker', "'num_workers'"),
    ('param_scheduler.0.start_facto', "'start_factor'"),
    ('param_scheduler.7.end', 'from 0 to 1'),
    ('model.backbone.arch.depths', "'light'"),
    ('data_root', '--data-root'),
    ('default_hooks.checkpoint.max_kep_ckpts', "'max_keep_ckpts'"),  # takes **kwargs
    ('default_hooks.checkpoint.intervval', "'interval'"),
    ('default_hooks.chekpoint.interval', "'checkpoint'"),
    ('randomness.sed', "'seed'"),  # has no type, and is not in the config
    ('train_dataloader.pin_memry', "'pin_memory'"),  # has no type
    ('auto_scale_lr.enabled', "'enable'"),
    ('train_pipeline.1.scale', 'would change nothing'),
    ('nonsense', "no 'nonsense'"),
])
def test_key_without_effect(key, hint):
    with pytest.raises(UserError) as caught:
        load_config(CONFIG, {key: 1})
    assert '--cfg-options' in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize('key, value', [
    ('train_cfg.max_epochs', 3),
    ('train_cfg.dynamic_intervals', None),  # accepted by the loop, absent in the config
    ('model.backbone.with_cp', True),  # accepted by the parent class' constructor
    ('default_hooks.checkpoint.save_last', False),
    ('randomness.seed', 1),  # a key of its own, absent in the config
    ('optim_wrapper.clip_grad.max_norm', 1.),
    ('optim_wrapper.paramwise_cfg.norm_decay_mult', 0.),
    ('train_dataloader.dataset.indices', 8),  # through **kwargs
    ('param_scheduler.0.end', 100),
    ('find_unused_parameters', True),
    ('train_dataloader.prefetch_factor', 4),
    ('default_hooks.checkpoint.file_client_args', None),
    ('env_cfg.mp_cfg.mp_start_method', 'spawn'),
])
def test_legitimate_key(key, value):
    node = load_config(CONFIG, {key: value})
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == value


@pytest.mark.parametrize('value', ['novalue', 'key=[1,2'])
def test_malformed_option_is_an_ordinary_usage_error(value, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(['--cfg-options', value])
    assert caught.value.code == 2
    assert value in capsys.readouterr().err
