"""Every backbone on the device gives the numbers of the CPU in float64."""
import copy

import pytest
import torch
from on_device import ARCHS, DEFAULTS, build, computing, name_of, precisions, relative_errors

pytestmark = pytest.mark.gpu

# Root mean square error over that of the map. The factors of products have 24, 11, 11 and 8 bits.
LIMITS = dict(float32=1e-4, tf32=2e-2, float16=2e-2, bfloat16=0.1)


def _images(device='cpu', dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 75, 98, generator=generator).to(device, dtype)


@pytest.mark.parametrize(('cls', 'arch'), ARCHS, ids=name_of)
def test_maps_are_those_of_the_cpu(cls, arch, device, tiny):
    """In every precision: float32 with and without TF32, float16, bfloat16."""
    if tiny and (cls, arch) not in DEFAULTS:
        pytest.skip('on the CPU one arch of every class is enough')
    model = build(cls, arch, tiny)
    errors = {}
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(_images(dtype=torch.float64))
        model = model.to(device)
        for name in precisions(device):
            with computing(name, device):
                errors[name] = max(relative_errors(model(_images(device)), expected))
    assert all(error < LIMITS[name] for name, error in errors.items()), errors


@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_gradients_are_those_of_the_cpu(cls, arch, device, tiny):
    """Of all parameters in float32; in other precisions they are finite, and point the same way."""
    model = build(cls, arch, tiny, norm_eval=True).train()
    double = copy.deepcopy(model).double()
    sum(out.square().mean() for out in double(_images(dtype=torch.float64))).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in double.parameters()])
    model = model.to(device)
    for name in precisions(device):
        model.zero_grad()
        with computing(name, device):
            outs = model(_images(device))
        # Gradients below 6e-8 are zero in float16.
        scale = 2.**10 if name == 'float16' else 1.
        (scale * sum(out.float().square().mean() for out in outs)).backward()
        found = torch.cat([parameter.grad.flatten() / scale for parameter in model.parameters()])
        assert found.isfinite().all(), name
        if name == 'float32':
            assert relative_errors([found], [expected])[0] < 1e-3
        cosine = torch.cosine_similarity(found.double().cpu(), expected, dim=0).item()
        assert cosine > (0.9 if name == 'bfloat16' else 0.99), (name, cosine)


@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_checkpointing_repeats_the_drops(cls, arch, device, tiny):
    """Recomputed blocks drop what was dropped, so that the gradients are the same."""
    grads = []
    for with_cp in (False, True):
        model = build(cls, arch, tiny, drop_path_rate=0.3, norm_eval=True, with_cp=with_cp)
        model = model.to(device).train()
        torch.manual_seed(3)
        with computing('float32', device):
            sum(out.square().mean() for out in model(_images(device))).backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert relative_errors(grads[1:], grads[:1])[0] < 1e-4


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_any_memory_format_gives_the_same(cls, arch, layout, device, tiny):
    """Of the weights, and of the images."""
    model, images = build(cls, arch, tiny).to(device), _images(device)
    with torch.no_grad(), computing('float32', device):
        expected = model(images)
        found = model.to(memory_format=layout)(images.contiguous(memory_format=layout))
    assert max(relative_errors(found, expected)) < 1e-4
