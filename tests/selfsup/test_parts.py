"""Loss, head, clipping, schedules and k-NN of DINO against official numbers."""
import numpy as np
import pytest
import torch
from golden_rule import GOLDEN, make_state_dict
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch import nn

from mmcontainer.errors import ConfigError
from mmcontainer.selfsup import CosineAnnealingWeightDecay, DINOHead, DINOLoss, KNNAccuracy
from mmcontainer.selfsup.dino_hook import clip_each_tensor
from mmcontainer.selfsup.teacher import TeacherEMA


def load(name):
    values = np.load(GOLDEN / f'{name}.npz')
    return {key: torch.from_numpy(np.asarray(values[key])) for key in values.files}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_head():
    fixture = load('dino_head')
    head = DINOHead(16, 24, hidden_channels=32, bottleneck_channels=8)
    weights = make_state_dict('dino_head', seed=1, gain=1.)
    weights['last_layer.weight_g'] = torch.ones(24, 1)
    assert list(head.state_dict()) == list(weights)
    head.load_state_dict(weights)
    head.double()
    x = fixture['input'].requires_grad_()
    output = head(x)
    output.backward(fixture['grad_output'])
    close(output, fixture['output'])
    close(x.grad, fixture['grad_input'])
    trained = {key for key, value in head.named_parameters() if value.requires_grad}
    assert trained == {key[5:] for key in fixture if key.startswith('grad.')}
    for key, value in head.named_parameters():
        if key in trained:
            close(value.grad, fixture[f'grad.{key}'])


def test_head_of_the_paper():
    head = DINOHead(384)
    assert sum(value.numel() for value in head.parameters()) == 22_352_128
    assert sum(value.numel() for value in DINOHead(512).parameters()) == 22_614_272
    head.init_weights()
    assert head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.mlp[2].bias.any()
    largest = head.last_layer.weight_v.abs().max().item()
    assert largest == pytest.approx(1 / 16, rel=1e-3) and largest <= 1 / 16
    assert DINOHead(8, 4, norm_last_layer=False).last_layer.weight_g.requires_grad


def test_loss_and_centre():
    fixture = load('dino_loss')
    temperature = fixture['temp'].item()
    loss = DINOLoss(24, teacher_temp=temperature).double()
    loss.center.copy_(fixture['center0'])
    for call in (1, 2):
        student = fixture[f'student{call}'].requires_grad_()
        value = loss(student, fixture[f'teacher{call}'], int(fixture['batch']))
        value.backward()
        close(value, fixture[f'loss{call}'])
        close(student.grad, fixture[f'grad_student{call}'])
        close(loss.center, fixture[f'center{call}'])
    assert 'center' in loss.state_dict()


def test_loss_gets_no_gradient_to_the_teacher_and_is_float32_for_half_precision():
    teacher = torch.randn(4, 8, requires_grad=True)
    student = torch.randn(8, 8, dtype=torch.bfloat16, requires_grad=True)
    value = DINOLoss(8)(student, teacher, 2)
    value.backward()
    assert teacher.grad is None and value.dtype == torch.float32


def test_temperature():
    fixture = load('dino_schedules')
    boosted = DINOLoss(4, teacher_temp=0.07, warmup_teacher_temp=0.04, warmup_epochs=3)
    assert [boosted.temperature_at(epoch) for epoch in range(5)] == pytest.approx(
        fixture['teacher_temp'].tolist(), rel=1e-12)
    assert [DINOLoss(4).temperature_at(epoch) for epoch in range(5)] == pytest.approx(
        fixture['teacher_temp_default'].tolist(), rel=1e-12)
    one = DINOLoss(4, teacher_temp=0.07, warmup_epochs=1)
    assert [one.temperature_at(epoch) for epoch in range(2)] == [0.04, 0.07]
    with pytest.raises(ConfigError, match='student_temp of DINOLoss is 0'):
        DINOLoss(4, student_temp=0)


def test_clipping():
    fixture = load('dino_clip')
    parameters = [nn.Parameter(torch.zeros_like(fixture[name])) for name in 'ab']
    for parameter, name in zip(parameters, 'ab'):
        parameter.grad = fixture[name].clone()
    largest = clip_each_tensor(parameters, max_norm=3.)
    for parameter, name in zip(parameters, 'ab'):
        close(parameter.grad, fixture[f'{name}_clipped'])
    close(largest, fixture['norms'].max())


def make_optimizer(lr, weight_decay):
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    return torch.optim.AdamW([dict(params=[weight], weight_decay=weight_decay),
                              dict(params=[bias], weight_decay=0.)], lr=lr)


def test_learning_rate():
    """MMEngine's schedulers as the configs have them."""
    fixture = load('dino_schedules')
    peak, end, epochs, length, warmup, _ = fixture['lr.args'].tolist()
    optimizer = make_optimizer(peak, 0.)
    found, length = [], int(length)
    common = dict(by_epoch=True, epoch_length=length)
    schedulers = [
        LinearLR.build_iter_from_epoch(optimizer, start_factor=1e-9, end=int(warmup), **common),
        CosineAnnealingLR.build_iter_from_epoch(optimizer, eta_min=end, begin=int(warmup),
                                                end=int(epochs), **common)]
    for _ in fixture['lr']:
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert found == pytest.approx(fixture['lr'].tolist(), rel=1e-7, abs=2e-9 * peak)


def test_weight_decay_leaves_out_what_has_none():
    fixture = load('dino_schedules')
    start, end, epochs, length = fixture['wd.args'].tolist()
    optimizer = make_optimizer(1., start)
    scheduler = CosineAnnealingWeightDecay.build_iter_from_epoch(
        optimizer, eta_min=end, end=int(epochs), epoch_length=int(length))
    found = []
    for _ in fixture['wd']:
        found.append([group['weight_decay'] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    decays, none = zip(*found)
    assert list(decays) == pytest.approx(fixture['wd'].tolist(), rel=1e-9)
    assert set(none) == {0.}


def test_momentum_of_the_teacher(monkeypatch):
    from mmengine.logging import MessageHub
    fixture = load('dino_schedules')
    start, end, epochs, length = fixture['momentum.args'].tolist()
    hub = MessageHub.get_instance('test_momentum')
    hub.update_info('max_iters', int(epochs * length))
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: hub)
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(network.weight)
    teacher = TeacherEMA(network, momentum=start, end_momentum=end)
    nn.init.zeros_(network.weight)
    for expected in fixture['momentum'].tolist():
        before = teacher.module.weight.item()
        teacher.update_parameters(network)
        assert teacher.module.weight.item() / before == pytest.approx(expected, rel=1e-12)


def knn_samples(fixture):
    for kind in ('train', 'test'):
        for vector, label in zip(fixture[kind], fixture[f'{kind}_labels']):
            yield dict(feature=vector, gt_label=label[None],
                       **(dict(is_reference=True) if kind == 'train' else {}))


@pytest.mark.parametrize('k', [3, 10, 20, 100])
def test_knn(k):
    fixture = load('dino_knn')
    metric = KNNAccuracy(k=k, temperature=fixture['temperature'].item())
    samples = list(knn_samples(fixture))
    metric.process(None, samples[:150])
    metric.process(None, samples[150:])
    found = metric.evaluate(len(samples))
    top1, top5 = fixture[f'top1_top5.k{k}'].tolist()
    assert found['knn/top1'] == pytest.approx(top1)
    if k > 10:  # below, classes without votes tie
        assert found['knn/top5'] == pytest.approx(top5)


def test_knn_of_several_numbers_of_neighbours_and_few_classes():
    vectors, labels = torch.eye(4), torch.tensor([0, 1, 0, 1])
    metric = KNNAccuracy(k=(1, 4))
    assert metric.accuracies(vectors, labels, 3 * vectors, labels) == {
        'top1': 100., 'top1_k4': 100.}
    near = torch.tensor([[1., 0.1, 0.2, 0.]])
    # Of the four votes of the second case, that of the nearest outweighs the others.
    assert metric.accuracies(vectors, labels, near, torch.tensor([1])) == {
        'top1': 0., 'top1_k4': 0.}


@pytest.mark.parametrize('flag, message', [(True, 'no images to classify'),
                                           (False, 'no references.*MarkReference')])
def test_knn_needs_references_and_images(flag, message):
    metric = KNNAccuracy(k=1)
    metric.process(None, [dict(feature=torch.ones(2), gt_label=torch.tensor([0]),
                               is_reference=flag)])
    with pytest.raises(ConfigError, match=message):
        metric.evaluate(1)


def test_knn_refuses_more_neighbours_than_references():
    with pytest.raises(ConfigError, match='at least k=10 references, found 2'):
        KNNAccuracy().accuracies(torch.eye(2), torch.arange(2), torch.eye(2), torch.arange(2))
    with pytest.raises(ConfigError, match='k of KNNAccuracy is 0'):
        KNNAccuracy(k=0)
