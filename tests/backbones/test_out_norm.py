"""Layer norms on the maps that are returned, and only there."""
import pytest
import torch
from torch.nn.functional import layer_norm

from mmcontainer.backbones import CoAtNet, Container, ContainerPAM, CoTNet
from mmcontainer.checkpoints import KeyMismatchError, load_backbone

CLASSES = [CoAtNet, Container, CoTNet]


def _build(cls, **kwargs):
    row = next(iter(cls.arch_settings.values()))
    torch.manual_seed(0)
    return cls({**row, 'depths': (1, 1, 1, 1)}, **kwargs).eval()


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('cls', CLASSES)
def test_maps_are_normed_and_stages_see_them_without(cls, deploy):
    plain, normed = _build(cls), _build(cls, out_norm=True, out_indices=(1, 3))
    load_backbone(normed, plain.state_dict())
    for norm in normed.out_norms.values():
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = plain(image)
        if deploy:
            normed.switch_to_deploy()
        outs = normed(image)
    assert len(outs) == 2 and list(normed.out_norms) == ['1', '3']
    for out, index in zip(outs, (1, 3)):
        norm = normed.out_norms[str(index)]
        expected = layer_norm(maps[index].permute(0, 2, 3, 1), (maps[index].shape[1], ),
                              norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
        assert out.is_contiguous()
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('cls', CLASSES)
def test_they_are_trained_behind_frozen_stages(cls):
    model = _build(cls, out_norm=True, frozen_stages=4).train()
    assert {key.split('.')[0] for key, p in model.named_parameters() if p.requires_grad} == {
        'out_norms'}
    sum(out.sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.out_norms.parameters())


def test_weights_of_a_classifier_load_and_those_of_a_detector_too():
    classifier, detector = _build(Container), _build(Container, out_norm=True)
    load_backbone(detector, classifier.state_dict())
    assert all((norm.weight == 1).all() for norm in detector.out_norms.values())
    detector.out_norms['2'].weight.data.fill_(3)
    again = _build(Container, out_norm=True)
    load_backbone(again, {f'backbone.{key}': value for key, value in detector.state_dict().items()})
    assert (again.out_norms['2'].weight == 3).all()


def test_norms_are_not_lost_in_silence():
    trained = _build(Container, out_norm=True).state_dict()
    with pytest.raises(KeyMismatchError, match='left over.*out_norms.0.weight'):
        load_backbone(_build(Container), trained)
    del trained['out_norms.1.bias']
    with pytest.raises(KeyMismatchError, match='missing.*out_norms.1.bias'):
        load_backbone(_build(Container, out_norm=True), trained)


def test_where_they_make_no_sense_they_are_refused():
    with pytest.raises(ValueError, match='final_norm and out_norm'):
        _build(Container, final_norm=True, out_norm=True)
    with pytest.raises(ValueError, match='out_norm must be False: ContainerPAM'):
        ContainerPAM(out_norm=True)
