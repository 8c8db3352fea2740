"""Every mistake named in the issue ends in a message and exit code 2, not in a traceback."""
import runpy
import subprocess
import sys

import pytest

CONFIG = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'


@pytest.fixture
def call(repo_root, monkeypatch, capsys, tmp_path):
    """Return a function that runs a tool in this process, in an empty folder: (code, text)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(repo_root / 'tools')  # as for any script that Python runs

    def run(tool, *arguments):
        path = str(repo_root / 'tools' / tool)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(path, run_name='__main__')
        captured = capsys.readouterr()
        return caught.value.code, captured.out + captured.err

    return run


def test_nothing_is_there_yet(call):
    """Weights and data are missing: both are said, with all that mends it."""
    code, text = call('train.py', CONFIG)
    assert code == 2 and 'Traceback' not in text
    for hint in ('checkpoints/container_light_in1k.pth', 'drive.google.com',
                 'mmcontainer convert', '--from-scratch', 'data/coco/',
                 'instances_train2017.json', 'val2017/', ': missing', '--data-root', 'make demo'):
        assert hint in text


def test_no_data(call, tmp_path):
    code, text = call('train.py', CONFIG, '--from-scratch', '--data-root', tmp_path)
    assert code == 2 and '4 of 4 parts are missing' in text and str(tmp_path) in text
    assert 'drive.google.com' not in text
    (tmp_path / 'some.pth').write_bytes(b'')
    code, text = call('test.py', CONFIG, 'some.pth', '--data-root', tmp_path)
    assert code == 2 and '2 of 2 parts are missing' in text


def test_no_imagenet(call):
    """The validation images are asked for too, although val_cfg is empty."""
    code, text = call('train.py', 'mmcontainer::imagenet/container_light_8xb128_in1k.py')
    assert code == 2 and '2 of 2 parts are missing' in text and 'Traceback' not in text
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
def test_mistake(call, monkeypatch, tool, arguments, hint):
    import torch

    from mmcontainer.cli import train
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('RANK', raising=False)
    if '--launcher' in arguments:  # comes after the data was found
        monkeypatch.setattr(train, 'check_and_report_data', lambda *_: None)
    code, text = call(tool, *arguments)
    assert code == 2 and hint in text and 'error: ' in text and 'Traceback' not in text


def test_unknown_arch_stops_before_data_is_read(call, monkeypatch):
    from mmcontainer.cli import train
    monkeypatch.setattr(train, 'check_and_report_data', lambda *_: None)
    code, text = call('train.py', CONFIG, '--from-scratch', '--cfg-options',
                      'model.backbone.arch=lite')
    assert code == 2 and "Unknown arch 'lite'" in text and "Did you mean 'light'" in text


TOOLS = ['train.py', 'test.py', 'infer.py', 'get_flops.py', 'mmdet_tool.py',
         'visualize_affinity.py']


@pytest.mark.parametrize('tool', TOOLS)
def test_package_is_not_installed(tool, repo_root):
    """-S leaves installed packages out."""
    command = [sys.executable, '-S', '-E', str(repo_root / 'tools' / tool)]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode != 0 and 'Traceback' not in result.stderr
    assert 'mmcontainer is not installed' in result.stderr and 'make env' in result.stderr
