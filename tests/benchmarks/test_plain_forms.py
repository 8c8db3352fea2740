"""The stand-in for the official code computes what the package computes."""
import pytest
import torch

from benchmarks.plain_forms import PlainContainerLight
from mmcontainer.backbones import Container, ContainerLight

ARCH = dict(embed_dims=(8, 16), depths=(2, 2), mlp_ratios=(4, 2), patch_sizes=(4, 2),
            num_heads=(None, 2), static=dict(kind='depthwise', kernel_size=5))


def randomize(model):
    """Norms and mixtures off their initial values, at which a mistake could hide."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.dim() == 1:
            value.add_(0.2 * torch.randn_like(value))
    return model


def assert_equal(found, expected):
    """Within 1e-5 of the largest value of a tensor that has large ones."""
    atol = 1e-5 * max(1., expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def gradients(model, images):
    """Outputs and the gradient of the images; parameters keep theirs."""
    images = images.clone().requires_grad_()
    outs = model(images)
    sum((out * torch.linspace(-1, 1, out.shape[-1])).sum() for out in outs).backward()
    return outs, images.grad


@pytest.mark.parametrize('training', [False, True])
def test_equal_in_float32_at_every_stage_with_gradients(training):
    model = randomize(Container(ARCH, out_indices=(0, 1))).train(training)
    plain = PlainContainerLight(model)
    images = torch.randn(2, 3, 45, 70)
    outs, image_grad = gradients(model, images)
    plain_outs, plain_image_grad = gradients(plain, images)
    assert len(outs) == len(plain_outs)
    for out, plain_out in zip(outs, plain_outs):
        assert plain_out.is_contiguous()
        assert_equal(out, plain_out)
    assert_equal(image_grad, plain_image_grad)
    for number, stage in enumerate(model.stages):
        for index, block in enumerate(stage.blocks):
            twin = plain.stages[number][index + 1]
            pairs = [(block.pos_embed, twin.pos_embed), (block.norm1, twin.norm1),
                     (block.aggregation.in_proj, twin.in_proj),
                     (block.aggregation.static, twin.depthwise),
                     (block.aggregation.out_proj, twin.out_proj), (block.norm2, twin.norm2),
                     (block.mlp.fc1, twin.fc1), (block.mlp.fc2, twin.fc2)]
            for ours, theirs in pairs:
                for found, expected in zip(ours.parameters(), theirs.parameters()):
                    assert_equal(found.grad, expected.grad)


@pytest.mark.parametrize('size', [(64, 64), (67, 98)])
def test_deployed_container_light_equals_it(size):
    model = randomize(ContainerLight(norm_eval=True)).eval()
    plain = PlainContainerLight(model)
    model.switch_to_deploy()
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        outs, plain_outs = model(images), plain(images)
    assert len(outs) == len(plain_outs)
    for out, expected in zip(outs, plain_outs):
        assert_equal(out, expected)


def test_frozen_norms_stay_frozen_in_training():
    plain = PlainContainerLight(Container(ARCH, out_indices=(0, ), norm_eval=True)).train()
    assert plain.training
    assert not plain.stages[0][1].norm1.training


def test_other_affinities_are_refused():
    with pytest.raises(ValueError, match='depth-wise convolution'):
        PlainContainerLight(Container(dict(ARCH, static=None, num_heads=(2, 2)), out_indices=(0, )))
