"""tools/export_onnx.py as a user runs it: one file for every size, equal to PyTorch."""
import re

import numpy as np
import pytest
import torch
from torch_versions import needs_export

from mmcontainer.backbones import CoAtNet, Container, CoTNet

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytestmark = needs_export

CONFIG = """
custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)
default_scope = 'mmdet'
model = dict(backbone={backbone!r})
"""
COATNET = dict(stem_width=8, embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1))
MODELS = {
    # A block or two of each kind: whole models take a minute.
    'light': (Container, dict(arch={**Container.arch_settings['light'], 'depths': (1, 1, 2, 1)}),
              (0, 1, 2, 3)),
    'cotnet': (CoTNet, dict(
        arch={**CoTNet.arch_settings['se-cotnetd-50'], 'depths': (1, 2, 1, 1)}), (0, 1, 2, 3)),
    'attention': (Container, dict(in_channels=1, arch=dict(
        embed_dims=(16, ), depths=(1, ), mlp_ratios=(1, ), patch_sizes=(4, ), num_heads=(2, ),
        static=dict(kind='depthwise', kernel_size=3))), (0, )),
    'mlp': (Container, dict(arch={**Container.arch_settings['mh-mlp-lr'], 'depths': (1, 1, 1, 1)}),
            (0, )),
    # Stage 2 attends in windows, stage 3 to the whole map.
    'coatnet': (CoAtNet, dict(arch=COATNET, window_size=3), (1, 2, 3)),
}


@pytest.fixture(params=list(MODELS))
def exported(request, tmp_path, run_tool):
    """Channels of its images, a backbone with random weights, its ONNX file, and the output."""
    cls, arguments, out_indices = MODELS[request.param]
    torch.manual_seed(0)
    model = cls(**arguments).eval()
    for module in model.modules():  # branches that start with zero would hide mistakes
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.1, 0.4)
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.1)
    config, weights, out = (tmp_path / name for name in ('config.py', 'weights.pth', 'm/b.onnx'))
    config.write_text(CONFIG.format(backbone=dict(
        arguments, type=cls.__name__, out_indices=out_indices)))
    torch.save(model.state_dict(), weights)
    output = run_tool('export_onnx.py', config, weights, out, '--backbone-only')
    return arguments.get('in_channels', 3), model, out, output


@pytest.mark.slow
def test_one_file_serves_every_size(exported):
    channels, model, path, output = exported
    assert f'2 x {channels} x 224 x 256' in output
    assert len(re.findall(r'largest error [\d.]+e-0\d', output)) == 2
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [out.name for out in session.get_outputs()]
    # Nodes carry no traces of the machine that the file was made on.
    assert not any(node.metadata_props for node in onnx.load(path).graph.node)
    for batch, size in ((1, (64, 96)), (3, (75, 130))):
        images = torch.randn(batch, channels, *size)
        with torch.no_grad():
            expected = model(images)
        for name, out in zip(names, session.run(None, {'images': images.numpy()})):
            reference = expected[int(name.removeprefix('stage'))].numpy()
            assert np.abs(out - reference).max() <= 1e-3 * reference.std()


def test_mistakes_leave_no_file(tmp_path, call_tool):
    config, weights = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(CONFIG.format(backbone=dict(type='ContainerLight')))
    torch.save(Container('light-paper').state_dict(), weights)
    for arguments, message in (
            ((config, weights, tmp_path / 'b.onnx'), 'does not fit ContainerLight'),
            ((config, weights, tmp_path / 'b.pt'), 'ends with .onnx'),
            ((config, weights, tmp_path / 'b.onnx', '--score-thr', 0), '--score-thr is about'),
            ((config, tmp_path / 'none.pth', tmp_path / 'b.onnx'), 'none.pth'),
            (('configs/retinanet/r50_fpn_1x_coco.py', weights, tmp_path / 'b.onnx'),
             'no backbone of this package')):
        output = call_tool('export_onnx.py', *arguments, '--backbone-only')
        assert message in output and 'Traceback' not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.py', 'weights.pth']
