"""tools/export_onnx.py as a user runs it: one file for every size, equal to PyTorch."""
import re

import numpy as np
import pytest
import torch
from torch_versions import needs_export

from mmcontainer.backbones import CoAtNet, Container, CoTNet

onnxruntime = pytest.importorskip('onnxruntime')
pytestmark = needs_export

CONFIG = """
custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)
default_scope = 'mmdet'
model = dict(backbone=dict(type='{type}', arch={arch!r}, {extra}))
"""
MODELS = {
    'ContainerLight': (Container, 'light', ''),
    # A block of each kind: the whole model takes a minute.
    'CoTNet': (CoTNet, {**CoTNet.arch_settings['se-cotnetd-50'], 'depths': (1, 2, 1, 1)},
               'out_indices=(0, 1)'),
    'Container': (Container, 'mh-mlp-lr', 'out_indices=(0, )'),
    'CoAtNet': (CoAtNet, dict(stem_width=8, embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1)),
                'out_indices=(1, 2)'),
}


@pytest.fixture(params=list(MODELS))
def exported(request, tmp_path, run_tool):
    """A backbone with random weights, its ONNX file and what the tool printed."""
    cls, arch, extra = MODELS[request.param]
    torch.manual_seed(0)
    model = cls(arch).eval()
    for module in model.modules():  # branches that start with zero would hide mistakes
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.1, 0.4)
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
    config, weights, out = (tmp_path / name for name in ('config.py', 'weights.pth', 'm/b.onnx'))
    config.write_text(CONFIG.format(type=request.param, arch=arch, extra=extra))
    torch.save(model.state_dict(), weights)
    output = run_tool('export_onnx.py', config, weights, out, '--backbone-only',
                      '--shape', 64, 96)
    return model, out, output


@pytest.mark.slow
def test_one_file_serves_every_size(exported):
    model, path, output = exported
    assert len(re.findall(r'largest error [\d.]+e-0\d', output)) == 2
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [out.name for out in session.get_outputs()]
    for batch, size in ((1, (64, 96)), (3, (75, 130))):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = model(images)
        for name, out in zip(names, session.run(None, {'images': images.numpy()})):
            reference = expected[int(name.removeprefix('stage'))].numpy()
            assert np.abs(out - reference).max() <= 1e-3 * reference.std()


@pytest.mark.slow
def test_images_have_the_channels_of_the_backbone(tmp_path, launch_tool):
    arch = dict(embed_dims=(8, ), depths=(1, ), mlp_ratios=(1, ), patch_sizes=(4, ),
                num_heads=(None, ), static=dict(kind='depthwise', kernel_size=3))
    config, weights, out = (tmp_path / name for name in ('config.py', 'weights.pth', 'b.onnx'))
    config.write_text(CONFIG.format(type='Container', arch=arch, extra='in_channels=1'))
    torch.save(Container(arch, in_channels=1).state_dict(), weights)
    output = launch_tool('export_onnx.py', config, weights, out, '--backbone-only',
                      '--shape', 64, 96)
    assert '2 x 1 x 64 x 96' in output
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    assert session.get_inputs()[0].shape[1] == 1


def test_mistakes_leave_no_file(tmp_path, run_tool):
    config, weights = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(CONFIG.format(type='ContainerLight', arch='light', extra=''))
    torch.save(Container('light-paper').state_dict(), weights)
    for arguments, message in (
            ((config, weights, tmp_path / 'b.onnx'), 'does not fit ContainerLight'),
            ((config, weights, tmp_path / 'b.pt'), 'ends with .onnx'),
            ((config, tmp_path / 'none.pth', tmp_path / 'b.onnx'), 'none.pth'),
            (('configs/retinanet/r50_fpn_1x_coco.py', weights, tmp_path / 'b.onnx'),
             'no backbone of this package')):
        output = run_tool('export_onnx.py', *arguments, '--backbone-only', code=2)
        assert message in output and 'Traceback' not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'weights.pth']
