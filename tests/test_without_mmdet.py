"""Backbones with mmcv-lite alone: weights, ONNX files and affinities need no MMDetection.

`make test-stack STACK=lite` makes such an environment, and runs this there.
"""
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from golden_rule import make_state_dict

pytestmark = pytest.mark.skipif(
    find_spec('mmdet') is not None or find_spec('mmcv._ext') is not None,
    reason='is about an environment without mmdet and with mmcv-lite (make test-stack STACK=lite)')

CONFIG = """
custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)
model = dict(backbone=dict(type='ContainerLight'))
"""


@pytest.fixture(scope='module')
def official():
    return make_state_dict('container_v1_light', seed=3, gain=0.6)


def test_official_weights_become_an_onnx_file(official, launch_tool, tmp_path):
    """Both tools as a user runs them; the second compares its file with PyTorch."""
    torch.save({'model': official}, tmp_path / 'official.pth')
    launch_tool('convert_checkpoint.py', 'official.pth', 'ours.pth')
    (tmp_path / 'config.py').write_text(CONFIG)
    output = launch_tool('export_onnx.py', 'config.py', 'ours.pth', 'out.onnx', '--backbone-only')
    assert 'largest error' in output and (tmp_path / 'out.onnx').is_file()


def test_affinities_are_computed_and_drawn(official, tmp_path):
    from mmcontainer.backbones import ContainerLight
    from mmcontainer.checkpoints import load_backbone
    from mmcontainer.visualization.affinity import (
        collect_rows,
        default_positions,
        find_layers,
        list_mixtures,
    )
    from mmcontainer.visualization.affinity_figures import draw_rows
    from mmcontainer.visualization.figures import save
    from mmcontainer.visualization.network_input import Geometry, NetworkInput
    backbone = ContainerLight().eval()
    load_backbone(backbone, official)
    image = NetworkInput(torch.randn(1, 3, 64, 96), np.zeros((64, 96, 3), np.uint8), (64, 96),
                         Geometry(np.ones(2), np.zeros(2)), (0., 0., 96., 64.))
    layers = find_layers(list_mixtures(backbone), ['3.1'])
    rows, = collect_rows(backbone, image, layers, default_positions(image), ['mean'])
    assert rows.maps['dynamic'].sum(axis=(-2, -1)) == pytest.approx(1, abs=1e-5)
    save(draw_rows(rows, image, 'affinity'), tmp_path / 'rows.png')
    assert (tmp_path / 'rows.png').stat().st_size > 1000


def test_the_doctor_finds_nothing_broken(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'mmcontainer.doctor'], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout
