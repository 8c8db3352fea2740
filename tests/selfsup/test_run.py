"""Twelve steps of the official training loop, repeated by MMEngine's runner."""
import numpy as np
import pytest
import torch
from golden_rule import GOLDEN, read_keys
from tiny_dino import ITERATIONS, Recorder, make_model, make_runner

from mmcontainer.errors import ConfigError
from mmcontainer.selfsup.dino import embed

# Before a batch norm a bias has no gradient but rounding, which AdamW amplifies.
_UNDETERMINED = ('conv1.bias', 'conv2.bias')


@pytest.fixture(scope='module')
def values():
    return np.load(GOLDEN / 'dino_run.npz')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    recorder = Recorder()
    runner = make_runner(tmp_path_factory.mktemp('run'), recorder)
    runner.train()
    return runner, recorder


def close(found, expected, tolerance=1e-7):
    expected = torch.as_tensor(expected).to(found.dtype)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0., atol=tolerance * max(scale, 1e-3))


def test_losses(run, values):
    assert run[1].losses == pytest.approx(values['losses'].tolist(), rel=1e-7)


def test_student_teacher_and_centre_after_every_epoch(run, values):
    keys = [key for key, *_ in read_keys('dino_run')]
    for epoch, state in enumerate(run[1].states):
        for key in keys:
            tolerance = 1e-5 if key.endswith(_UNDETERMINED) else 1e-7
            for kind, prefix in (('student', ''), ('teacher', 'teacher.module.')):
                close(state[prefix + key], values[f'epoch{epoch}.{kind}.{key}'], tolerance)
        close(state['dino_loss.center'], values[f'epoch{epoch}.center'])
    assert len(state) == 2 * len(keys) + 2, 'centre and the number of steps are saved beside them'
    assert state['teacher.steps'] == 12


def test_embeddings(run, values):
    model = run[0].model.eval()
    images = torch.from_numpy(values['eval_input']).double()
    with torch.no_grad():
        close(embed(model.teacher.module, images), values['teacher_embedding'])
        close(embed(model, images), values['student_embedding'])
    model.train()


def test_weight_decay_by_parameter(run, values):
    model, groups = run[0].model, run[0].optim_wrapper.optimizer.param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    found = {True: set(), False: set()}
    for group in groups:
        found[group['weight_decay'] > 0].update(names[id(value)] for value in group['params'])
    assert found == {True: set(values['groups.decayed']), False: set(values['groups.plain'])}


@pytest.mark.parametrize('stop_at', [2 * ITERATIONS + 1, 2 * ITERATIONS - 1])
def test_killed_and_resumed(run, tmp_path, monkeypatch, stop_at):
    # With it, PyTorch before 2.6 reads no checkpoint of MMEngine's; Runner alone never sets it.
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    first, second = Recorder(stop_at), Recorder()
    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, first).train()
    make_runner(tmp_path, second, resume=True).train()
    begin = stop_at // ITERATIONS * ITERATIONS
    assert first.losses == run[1].losses[:stop_at + 1]
    assert second.losses == run[1].losses[begin:], 'the same losses, bit by bit'
    for key, value in run[1].states[-1].items():
        assert torch.equal(value, second.states[-1][key]), key


def test_last_layer_has_no_optimizer_state_while_it_is_frozen(tmp_path):
    # Whatever compiles in the process: PyTorch 2.1 then takes hooks from all optimizers.
    torch.compile(torch.sin, backend='eager')(torch.ones(1))
    recorder = Recorder(stop_at=ITERATIONS - 1)
    runner = make_runner(tmp_path, recorder)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    layer = runner.model.head.last_layer
    assert layer.weight_v not in runner.optim_wrapper.optimizer.state
    assert runner.model.head.mlp[0].weight in runner.optim_wrapper.optimizer.state


def test_without_its_hook_dino_does_not_train(tmp_path):
    runner = make_runner(tmp_path, Recorder(), custom_hooks=[])
    with pytest.raises(ConfigError, match='DINOHook'):
        runner.train()


def test_accumulated_gradients_are_refused(tmp_path):
    runner = make_runner(tmp_path, Recorder(), optim_wrapper=dict(
        optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2))
    with pytest.raises(ConfigError, match='accumulative_counts=2'):
        runner.train()


@pytest.mark.parametrize('changes, message', [
    (dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01))), 'found None'),
    (dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(
        type='value', clip_value=1.))), "found {'clip_value': 1.0}"),
    (dict(train_cfg=dict(by_epoch=False, max_iters=2), param_scheduler=[]), 'count epochs'),
    (dict(custom_hooks=[dict(type='DINOHook', evaluates_untrained=True)]), 'needs val_dataloader')])
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, Recorder(), **changes).train()


@pytest.mark.parametrize('crops, message', [
    (torch.zeros(3, 3, 16, 16), 'found 1'), ([torch.zeros(3, 3, 16, 16)], 'found 1')])
def test_too_few_crops(crops, message):
    model = make_model().float()
    model.epoch = 0
    with pytest.raises(ConfigError, match=message):
        model(crops, mode='loss')


def test_embeddings_of_another_width():
    model = make_model().float()
    model.head.in_channels = 12
    with pytest.raises(ConfigError, match=r'\(2, 12\) by head.in_channels, found \(2, 10\)'):
        embed(model, torch.zeros(2, 3, 16, 16))
