"""The demo, from an empty folder to pictures."""
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from tool_server import Tools

pytest.importorskip('mmcv.ops')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402

from mmcontainer.demo import CLASSES, ShapesParams  # noqa: E402
from mmcontainer.demo import run as demo  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer_command import COMMANDS  # noqa: E402

REPO_ROOT = Path(__file__).resolve().parents[2]
CPU = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


@pytest.fixture
def run_smoke(tool_server):
    """Return a function: ``run_smoke(folder, option, ..., code=0)`` returns the output."""
    return lambda folder, *args, code=0: Tools(folder, tool_server)(
        'demo.py', '--smoke', *args, env=CPU, timeout=600, code=code)


def scalars(folder):
    """Every logged number that is no time, of the latest run."""
    log = sorted(Path(folder, 'work_dirs/demo_smoke').glob('*/vis_data/scalars.json'))[-1]
    return [{key: value for key, value in json.loads(line).items() if 'time' not in key}
            for line in log.read_text().splitlines()]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    return folder, Tools(folder)('demo.py', '--smoke', env=CPU, timeout=600)


@pytest.mark.slow
def test_demo_does_all_it_says(finished):
    folder, out = finished
    assert [int(n) for n in re.findall(r'^\[(\d)/4\]', out, re.MULTILINE)] == [1, 2, 3, 4]
    assert 'because PyTorch finds no CUDA GPU' in out
    # The table of the evaluation, and its first number again as the result.
    table = re.findall(r'coco/bbox +(\d\.\d+)', out)
    final = re.search(r'Box AP \(COCO, IoU 0.50:0.95\) on held-out images: (\d\.\d{3})', out)
    assert table and final and table[-1] == final[1]
    for name in ('curves.png', 'detections.png'):
        assert f'work_dirs/demo_smoke/{name}' in out
        picture = matplotlib.image.imread(folder / 'work_dirs/demo_smoke' / name)
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 100
    assert (folder / 'work_dirs/demo_smoke/epoch_1.pth').is_file()
    log = scalars(folder)
    assert any('coco/bbox_mAP' in record for record in log)
    assert any(np.isfinite(record.get('loss', np.nan)) for record in log)


@pytest.mark.slow
def test_the_commands_it_names_work(finished, tool_server):
    """Those that need no other data are run as printed; the COCO one only has to exist."""
    folder, out = finished
    commands = re.findall(r'^  \S+ -m mmcontainer (.*)$', out, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        name, *args = command.split()
        if 'coco.py' in command:
            assert (REPO_ROOT / args[0]).is_file()
            continue
        Tools(folder, tool_server)(COMMANDS[name], *args, env=CPU)


@pytest.mark.slow
def test_running_again_reuses_the_data_and_gives_the_same_numbers(finished, run_smoke):
    folder, _ = finished
    before = scalars(folder)
    assert 'are there already' in run_smoke(folder)
    assert len(list((folder / 'work_dirs/demo_smoke').glob('*/vis_data'))) == 2
    assert scalars(folder) == before


def test_foreign_data_folder_is_refused(tmp_path, run_smoke):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('x')
    output = run_smoke(tmp_path, '--data-dir', 'mine', code=2)
    assert 'is not a data set made by this generator' in output
    assert 'Traceback' not in output
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == ['notes.txt']


def test_checkpoints_of_a_training_are_left_alone(tmp_path, call_tool):
    (tmp_path / 'mine').mkdir()
    for name in ('mine.py', 'epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / 'mine' / name).write_text('precious')
    output = call_tool('demo.py', '--smoke', '--work-dir', 'mine')
    assert '--work-dir mine holds checkpoints of another training (epoch_1.pth, ' in output
    assert [path.name for path in tmp_path.iterdir()] == ['mine']
    assert (tmp_path / 'mine' / 'epoch_1.pth').read_text() == 'precious'


def test_only_an_earlier_demo_is_replaced(tmp_path):
    demo._check_work_dir(str(tmp_path / 'new'))
    copy, other = tmp_path / Path(demo.CONFIG).name, tmp_path / 'mine.py'
    copy.write_text('')
    (tmp_path / 'epoch_2.pth').write_text('')
    demo._check_work_dir(str(tmp_path))
    other.write_text('')  # of a training that was started there with --overwrite
    with pytest.raises(UserError, match='another training .epoch_2.pth.'):
        demo._check_work_dir(str(tmp_path))


def test_zero_epochs_are_refused(tmp_path, run_smoke):
    output = run_smoke(tmp_path, '--epochs', '0', code=2)
    assert output.strip().splitlines()[-1] == (
        'error: --epochs: a number from 1 on is expected, not 0.')
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_cpu_is_used_and_it_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    device, reason = demo.find_device()
    assert device == 'cpu' and 'PyTorch finds no CUDA GPU' in reason


def test_a_gpu_without_compiled_ops_is_not_used(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError('nms_impl: implementation for device cuda:0 not found.\nmore')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *args: 'Some GPU')
    monkeypatch.setattr(torch, 'tensor', lambda data, **kwargs: data)
    monkeypatch.setattr('mmcv.ops.nms', refuse)
    device, reason = demo.find_device()
    assert device == 'cpu'
    assert 'Some GPU' in reason and 'implementation for device cuda:0 not found' in reason
    assert 'mmcontainer.doctor' in reason and 'more' not in reason
    monkeypatch.setattr('mmcv.ops.nms', lambda *args: None)
    assert demo.find_device() == ('cuda', 'the GPU (Some GPU)')


def test_the_config_fits_the_data_and_keeps_the_full_backbone():
    cfg = Config.fromfile(str(REPO_ROOT / demo.CONFIG))
    full = Config.fromfile(str(REPO_ROOT / 'configs/retinanet/container_light_fpn_1x_coco.py'))
    assert tuple(cfg.metainfo.classes) == CLASSES
    assert cfg.model.bbox_head.num_classes == len(CLASSES) == len(cfg.metainfo.palette)
    assert cfg.image_size == ShapesParams().size
    assert cfg.model.backbone.init_cfg is None

    def build(backbone):
        return MODELS.build({**backbone, 'init_cfg': None})

    ours, theirs = build(cfg.model.backbone), build(full.model.backbone)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()]
    assert all(p.requires_grad for p in ours.parameters())
    norms = [m for m in ours.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.training for norm in norms)
