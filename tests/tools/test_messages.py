"""Every mistake named in the issue ends in a message and exit code 2, not in a traceback."""
import subprocess
import sys

import pytest

CONFIG = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'


def test_nothing_is_there_yet(call_tool):
    """Weights and data are missing: both are said, with all that mends it."""
    text = call_tool('train.py', CONFIG)
    assert 'Traceback' not in text
    for hint in ('checkpoints/container_light_in1k.pth', 'drive.google.com',
                 'mmcontainer convert', '--from-scratch', 'data/coco/',
                 'instances_train2017.json', 'val2017/', ': missing', '--data-root', 'make demo'):
        assert hint in text


def test_no_data(call_tool, tmp_path):
    text = call_tool('train.py', CONFIG, '--from-scratch', '--data-root', tmp_path)
    assert '4 of 4 parts are missing' in text and str(tmp_path) in text
    assert 'drive.google.com' not in text
    (tmp_path / 'some.pth').write_bytes(b'')
    text = call_tool('test.py', CONFIG, 'some.pth', '--data-root', tmp_path)
    assert '2 of 2 parts are missing' in text


def test_no_imagenet(call_tool):
    """The validation images are asked for too, although val_cfg is empty."""
    text = call_tool('train.py', 'mmcontainer::imagenet/container_light_8xb128_in1k.py')
    assert '2 of 2 parts are missing' in text and 'Traceback' not in text
    for hint in ('train/', 'val/', ': missing', '--data-root', 'image-net.org', 'meta/val.txt'):
        assert hint in text


@pytest.mark.parametrize('tool, arguments, hint', [
    ('train.py', ['configs/retinanet/container_lite_fpn_1x_coco.py'], 'Did you mean'),
    ('train.py', [CONFIG, '--cfg-options', 'train_cfg.max_epoch=1'], "'max_epochs'"),
    ('train.py', [CONFIG, '--from-scratch', '--amp', 'fp16'], '--amp bf16'),
    ('train.py', [CONFIG, '--resume', 'gone.pth'], 'gone.pth'),
    ('train.py', [CONFIG, '--launcher', 'pytorch', '--from-scratch'], 'dist_train.sh'),
    ('test.py', ['gone.py', 'gone.pth'], 'gone.py'),
    ('test.py', [CONFIG, 'gone.pth'], 'gone.pth'),
    ('get_flops.py', ['gone.py'], 'gone.py'),
    ('get_flops.py', [CONFIG, '--shape', '16', '16'], 'at least 32'),
    ('get_flops.py', [CONFIG, '--cfg-options', 'model.backbone.arch=lite'], "Did you mean 'light'"),
    ('infer.py', ['gone.jpg', '--config', CONFIG, '--checkpoint', 'gone.pth'], 'gone.jpg'),
    ('mmdet_tool.py', ['analyse_logs'], 'analyze_logs'),
])
def test_mistake(call_tool, monkeypatch, tool, arguments, hint):
    import torch

    from mmcontainer.cli import train
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('RANK', raising=False)
    if '--launcher' in arguments:  # comes after the data was found
        monkeypatch.setattr(train, 'check_and_report_data', lambda *_: None)
    text = call_tool(tool, *arguments)
    assert hint in text and 'error: ' in text and 'Traceback' not in text


def test_unknown_arch_stops_before_data_is_read(call_tool, monkeypatch):
    from mmcontainer.cli import train
    monkeypatch.setattr(train, 'check_and_report_data', lambda *_: None)
    text = call_tool('train.py', CONFIG, '--from-scratch', '--cfg-options',
                     'model.backbone.arch=lite')
    assert "Unknown arch 'lite'" in text and "Did you mean 'light'" in text


TOOLS = ['train.py', 'test.py', 'infer.py', 'get_flops.py', 'mmdet_tool.py',
         'visualize_affinity.py']


@pytest.mark.parametrize('tool', TOOLS)
def test_package_is_not_installed(tool, repo_root):
    """-S leaves installed packages out."""
    command = [sys.executable, '-S', '-E', str(repo_root / 'tools' / tool)]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode != 0 and 'Traceback' not in result.stderr
    assert 'mmcontainer is not installed' in result.stderr and 'make env' in result.stderr
