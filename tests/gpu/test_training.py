"""Training on the device: in a process group, and resumed."""
import json
from argparse import Namespace

import pytest
import torch
import torch.distributed as dist
from on_device import DEFAULTS, build, computing, name_of, relative_errors
from torch.nn.parallel import DistributedDataParallel

from benchmarks.trainings import TINY
from mmcontainer.cli.console import build_runner
from mmcontainer.cli.train import prepare_config, prepare_loading
from mmcontainer.demo import ShapesParams, generate_shapes
from mmcontainer.engine.amp import prepare_mixed_training

pytestmark = pytest.mark.gpu

ITERATIONS = 3  # of an epoch


@pytest.fixture
def process_group(device, tmp_path):
    """A group of this process alone, as one GPU of a launcher has it."""
    # A file needs no network, and no free port.
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', world_size=1, rank=0,
                            init_method=(tmp_path / 'rendezvous').as_uri())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(('cls', 'arch'), DEFAULTS, ids=name_of)
def test_distributed_equals_alone(cls, arch, device, tiny, process_group):
    """Two steps: the same weights, and every parameter takes part, or the second step fails."""
    results = []
    for distributed in (False, True):
        model = build(cls, arch, tiny, norm_eval=True).to(device).train()
        network = model
        if distributed:
            network = DistributedDataParallel(
                model, device_ids=[0] if device.type == 'cuda' else None)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        torch.manual_seed(0)
        images = torch.randn(2, 3, 64, 64).to(device)
        for _ in range(2):
            with computing('float32', device):
                sum(out.square().mean() for out in network(images)).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append([torch.cat([p.detach().flatten() for p in model.parameters()])])
    assert max(relative_errors(*results)) < 1e-5


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """A data set of two images per iteration."""
    folder = tmp_path_factory.mktemp('shapes')
    generate_shapes(folder, ShapesParams(num_train=2 * ITERATIONS, num_val=2))
    return folder


def _train(repo_root, shapes, work_dir, epochs, amp, tiny, resume=None):
    """Losses of every iteration that is trained: {iteration: loss}."""
    options = {
        'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': 100,
        'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0 if tiny else 2,
        'train_dataloader.persistent_workers': not tiny, 'randomness.seed': 3,
        'param_scheduler.1.T_max': 2, 'param_scheduler.1.end': 2,
        'default_hooks.logger.interval': 1, 'log_processor.window_size': 1,
        'model.backbone.drop_path_rate': 0.3,
        # MMEngine would go on with the visualizer of the first training, and in its files.
        'visualizer.name': work_dir.name}
    if tiny:
        options.update(TINY)
    cfg = prepare_config(Namespace(
        config=str(repo_root / 'configs/retinanet/container_light_fpn_demo_shapes.py'),
        work_dir=str(work_dir), data_root=str(shapes), cfg_options=options, from_scratch=False,
        amp=amp, auto_scale_lr=False, allow_partial_load=False, resume=resume, overwrite=True,
        launcher='none'))
    runner = build_runner(cfg)
    if cfg.get('load_from') is not None:
        prepare_loading(runner, cfg.load_from, False)
    prepare_mixed_training(runner)
    runner.train()
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if 'loss' in line}


@pytest.mark.parametrize('amp', [None, 'bf16'])
def test_resuming_goes_on_with_the_same_losses(amp, device, tiny, repo_root, shapes, tmp_path,
                                               monkeypatch):
    """Augmentation and drop path are on: another random stream would give other losses."""
    if tiny and amp:
        pytest.skip('on the CPU one type is enough')
    import mmengine.device.utils
    monkeypatch.setattr(mmengine.device.utils, 'DEVICE', device.type)
    with computing('float32', torch.device(device)):
        whole = _train(repo_root, shapes, tmp_path / 'whole', 2, amp, tiny)
        resumed = _train(repo_root, shapes, tmp_path / 'resumed', 2, amp, tiny,
                         resume=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert sorted(whole) == list(range(1, 2 * ITERATIONS + 1))
    assert sorted(resumed) == list(range(ITERATIONS + 1, 2 * ITERATIONS + 1))
    # A GPU adds up gradients in an order of its own; a CPU in one thread does not.
    tolerance = 0 if device.type == 'cpu' else 1e-2
    assert resumed == {step: pytest.approx(whole[step], rel=tolerance) for step in resumed}
    assert len(set(whole.values())) == len(whole)
