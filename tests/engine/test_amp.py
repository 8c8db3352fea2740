"""Mixed precision on the CPU, and what the machine cannot do."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmcontainer.engine.amp import CPUAmpOptimWrapper, apply_amp, check_precision
from mmcontainer.errors import UserError


def make_config(**more):
    return Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), **more)))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Test GPU')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)


def test_fp16_on_the_cpu_is_refused(no_gpu):
    with pytest.raises(UserError, match='--amp fp16 needs a CUDA GPU.*--amp bf16'):
        apply_amp(make_config(), 'fp16')


def test_bf16_on_an_old_gpu_is_refused(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    with pytest.raises(UserError, match='Test GPU has no bfloat16'):
        apply_amp(make_config(), 'bf16')


def test_foreign_optimizer_wrapper_is_refused(no_gpu):
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper'):
        apply_amp(make_config(type='DeepSpeedOptimWrapper'), 'bf16')


@pytest.mark.parametrize('kind', [
    'AmpOptimWrapper', 'mmengine.optim.AmpOptimWrapper', AmpOptimWrapper])
def test_what_a_config_asks_for_needs_a_gpu(kind, no_gpu):
    cfg = make_config(type=kind, loss_scale='dynamic')
    with pytest.raises(UserError, match='AmpOptimWrapper, which needs a CUDA GPU.*--amp bf16'):
        check_precision(cfg)
    apply_amp(cfg, 'bf16')  # a class is no other kind of wrapper than its name
    check_precision(cfg)
    assert cfg.optim_wrapper.type == 'CPUAmpOptimWrapper'


def test_on_a_gpu_it_is_the_one_of_mmengine(gpu):
    cfg = make_config(type='OptimWrapper', clip_grad=dict(max_norm=1))
    apply_amp(cfg, 'fp16')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == (
        'AmpOptimWrapper', 'float16', 'dynamic')
    assert cfg.optim_wrapper.clip_grad.max_norm == 1
    apply_amp(cfg, 'bf16')  # bfloat16 needs no loss scaling
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == (
        'bfloat16', dict(enabled=False))


def test_cpu_bf16_trains(no_gpu):
    cfg = make_config(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=dict(max_norm=10))
    apply_amp(cfg, 'bf16')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1))
    settings = {**cfg.optim_wrapper}
    settings['optimizer'] = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapper = OPTIM_WRAPPERS.build(settings)
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    x, losses = torch.rand(4, 3, 4, 4), []
    for _ in range(10):
        with wrapper.optim_context(model):
            out = model(x)
            loss = (out - 1).square().mean()
        assert out.dtype == torch.bfloat16
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert wrapper.optimizer.state[model[0].weight]['exp_avg'].dtype == torch.float32


def test_cpu_bf16_resumes():
    def build():
        parameter = nn.Parameter(torch.ones(1))
        return CPUAmpOptimWrapper(optimizer=torch.optim.AdamW([parameter], lr=0.3))

    first, second = build(), build()
    first.optimizer.param_groups[0]['lr'] = 0.1
    second.load_state_dict(first.state_dict())
    assert second.optimizer.param_groups[0]['lr'] == 0.1
