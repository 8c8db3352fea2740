"""Deployed, compiled and captured backbones on the device."""
import pytest
import torch
from on_device import DEFAULTS, build, computing, name_of, relative_errors
from torch_versions import needs_compile

from mmcontainer.backbones import ContainerPAM

pytestmark = pytest.mark.gpu


def _compiler(cls, tiny):
    """Backend of a test; on the CPU tests/backbones compiles what is left out here."""
    if tiny and cls is not ContainerPAM:
        pytest.skip('on the CPU the class that is compiled nowhere else is enough')
    return 'aot_eager' if tiny else 'inductor'


def _images(device, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 96, 128, generator=generator).to(device)


@pytest.mark.parametrize('rounding', ['float32', 'bfloat16'])
@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_deployed_equals_trained(cls, arch, rounding, device, tiny):
    """Switched on the device, where its weights are folded as well."""
    model, images = build(cls, arch, tiny).to(device), _images(device)
    with torch.no_grad():
        with computing('float32', device):
            expected = model(images)
        model.switch_to_deploy()
        with computing(rounding, device):
            found = model(images)
    assert max(relative_errors(found, expected)) < (1e-4 if rounding == 'float32' else 0.1)


@needs_compile
@pytest.mark.parametrize('deploy', [False, True], ids=['as trained', 'deployed'])
@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_compiled_equals_eager(cls, arch, deploy, device, tiny):
    """By inductor; on the CPU, where that takes a minute per model, as a graph alone.

    One block per stage: the others are compiled alike, and take as long.
    """
    backend = _compiler(cls, tiny)
    model, images = build(cls, arch, tiny=True).to(device), _images(device)
    with torch.no_grad(), computing('float32', device):
        expected = model(images)
        model = model.switch_to_deploy() if deploy else model
        found = torch.compile(model, backend=backend, fullgraph=True)(images)
    assert max(relative_errors(found, expected)) < 1e-3


@needs_compile
@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_compiled_trains(cls, arch, device, tiny):
    """The gradients of the compiled backbone; as ``--compile`` has it, for any size of image.

    On the CPU for one size: symbolic shapes take a minute per model there.
    """
    backend = _compiler(cls, tiny)
    model = build(cls, arch, tiny=True, norm_eval=True).to(device).train()
    compiled = torch.compile(model, backend=backend, dynamic=not tiny)
    for height in (96, ) if tiny else (96, 64):
        images, grads = _images(device)[:, :, :height], []
        for forward in (model, compiled):
            model.zero_grad()
            with computing('float32', device):
                sum(out.square().mean() for out in forward(images)).backward()
            grads.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
        assert relative_errors(grads[1:], grads[:1])[0] < 1e-3


@pytest.mark.parametrize('deploy', [False, True], ids=['as trained', 'deployed'])
@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_captured_as_a_cuda_graph(cls, arch, deploy, cuda):
    """Nothing waits for the GPU or takes memory in between; a replay sees other images."""
    model, images = build(cls, arch, tiny=False).to(cuda), _images(cuda)
    model = model.switch_to_deploy() if deploy else model
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is allocated, tuned or compiled once
                model(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(images)
        images.copy_(images.flip(0))
        expected = model(images)
        graph.replay()
    assert max(relative_errors(captured, expected)) < 1e-4
