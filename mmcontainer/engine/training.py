"""``tools/train.py``: from a config to a trained model."""
import os

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .amp import apply_amp, keep_losses_exact
from .configs import load_config
from .data_root import check_data, set_data_root
from .deploy import compile_backbone
from .distributed import replace_sync_bn, setup_distributed
from .errors import UserError
from .scratch_advice import scratch_advice
from .setup import (
    check_pretrained,
    find_resume,
    scale_lr,
    set_loader_defaults,
    set_work_dir,
    train_from_scratch,
)


def say(text: str) -> None:
    """Print once, not once per process."""
    if os.environ.get('RANK', '0') == '0':
        print(text, flush=True)


def check_all(*checks) -> None:
    """Run checks and raise one UserError with the messages of all that fail."""
    messages = []
    for check in checks:
        try:
            check()
        except UserError as error:
            messages.append(str(error))
    if messages:
        raise UserError('\n\n'.join(messages))


def build_runner(cfg) -> Runner:
    """Build the runner that the config asks for."""
    return Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)


def prepare_config(args):
    """Read a config and apply the command line to it.

    Args:
        args (argparse.Namespace): Arguments of ``tools/train.py``.

    Returns:
        Config: Ready for a runner.

    Raises:
        UserError: Anything that would fail later: see the functions called.
    """
    cfg = load_config(args.config, args.cfg_options)
    set_work_dir(cfg, args.work_dir, args.config)
    set_loader_defaults(cfg)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if args.from_scratch:
        changes = train_from_scratch(cfg)
        say('--from-scratch: random weights, and all norms and stages are trained:\n'
            + '\n'.join(f'  {line}' for line in [
                *(changes or ['nothing was pretrained or frozen']), *scratch_advice(cfg)]))
    if args.amp is not None:
        apply_amp(cfg, args.amp)
    if args.auto_scale_lr:
        say(scale_lr(cfg))
    if args.resume is not None:
        cfg.load_from = find_resume(cfg.work_dir, args.resume)
        cfg.resume = cfg.load_from is not None
        say(f'--resume: from {cfg.load_from}' if cfg.resume else
            f'--resume: no checkpoint in {cfg.work_dir} yet, so training starts from the beginning')
    # An empty val_cfg, as MMPretrain's schedules have it, means validation all the same.
    splits = ('train', 'val') if cfg.get('val_cfg') is not None else ('train', )
    check_all(lambda: check_pretrained(cfg), lambda: check_data(cfg, splits))
    return cfg


def train(args) -> None:
    """Train as the command line says.

    Args:
        args (argparse.Namespace): Arguments of ``tools/train.py``.
    """
    cfg = prepare_config(args)
    setup_distributed(cfg, args.launcher)
    warning = replace_sync_bn(cfg)
    if warning is not None:
        say(warning)
    runner = build_runner(cfg)
    if args.amp is not None:
        keep_losses_exact(runner.model)
    if args.compile:
        compile_backbone(runner.model)
    runner.train()
