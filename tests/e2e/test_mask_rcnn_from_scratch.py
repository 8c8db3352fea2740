"""Mask R-CNN from random weights, as the config of the generated shapes has it."""
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmcontainer.cli.data_root import set_data_root
from mmcontainer.demo import ShapesParams, generate_shapes


@pytest.mark.slow
def test_the_mask_loss_starts_at_chance_and_falls(repo_root, tmp_path):
    """With MMDetection's mask head it would start above 1."""
    generate_shapes(tmp_path / 'shapes', ShapesParams(num_train=4, num_val=1))
    cfg = Config.fromfile(repo_root / 'configs/mask_rcnn/container_light_fpn_demo_shapes.py')
    set_data_root(cfg, str(tmp_path / 'shapes'))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    data = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(14):
        batch = model.data_preprocessor(data, training=True)
        total, log = model.parse_losses(model(**batch, mode='loss'))
        losses.append(log['loss_mask'].item())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim_wrapper.clip_grad.max_norm)
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(2), abs=0.01)
    assert max(losses) < 0.75 and losses[-1] < 0.65
