"""``tools/train.py``: from a config to a trained model."""
import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.dist import master_only

from ..data_check import check_annotations, check_data
from ..engine.amp import prepare_mixed_training
from ..engine.deploy import DeployHook
from ..engine.invalid_loss import StopWhenDivergedHook
from ..engine.on_track import OnTrackHook
from ..errors import UserError, find_interrupt
from ..fileio import write_atomically
from ..paper.curves import load_curves
from .config_changes import (
    add_hook,
    apply_amp,
    check_precision,
    check_pretrained,
    scale_lr,
    scratch_advice,
    set_loader_defaults,
    set_work_dir,
    train_from_scratch,
    use_safe_checkpoints,
)
from .configs import load_config, own_name
from .console import build_runner, quiet_libraries
from .data_root import set_data_root
from .distributed import check_same_checkpoint, replace_sync_bn, setup_distributed
from .models import check_channels, compile_backbone
from .paths import check_writable_folder, claim_work_dir
from .resume import advice_after_interrupt, find_resume
from .weights import (
    check_pretrained_weights,
    forget_pretrained,
    local_file,
    prepare_loading,
)


def say(text: str) -> None:
    """Print once, not once per process of torchrun."""
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


def check_and_report_data(cfg, splits: Sequence[str]) -> None:
    """Check that the data is there and can be used; print what was dropped or repaired."""
    check_data(cfg, splits)
    for note in check_annotations(cfg, splits).notes:
        say(f'note: {note}')


def compare_with_published(cfg, config_name: str) -> None:
    """Add :class:`OnTrackHook` to a config of this package of whose run numbers are published.

    Args:
        cfg (Config): Changed in place.
        config_name (str): What it was read from. A config that is only based on one of ours is left
            alone: its recipe may be any other.
    """
    run = own_name(config_name)
    if run in load_curves():
        add_hook(cfg, OnTrackHook.__name__, run=run)


def prepare_config(args):
    """Read a config and apply the command line to it.

    Args:
        args (argparse.Namespace): Arguments of ``tools/train.py``; ``load_from`` becomes what the
            config says, which a checkpoint to resume from takes the place of.

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
    args.load_from = cfg.get('load_from')
    _find_checkpoint(cfg, args.resume)
    check_writable_folder(cfg.work_dir, '--work-dir')
    claim_work_dir(cfg.work_dir, goes_on=cfg.get('resume', False) or args.overwrite,
                   launcher=args.launcher)
    use_safe_checkpoints(cfg)
    add_hook(cfg, StopWhenDivergedHook.__name__)
    add_hook(cfg, DeployHook.__name__)
    if not args.from_scratch:  # random weights go another way than the published run
        compare_with_published(cfg, args.config)
    # An empty val_cfg, as MMPretrain's schedules have it, means validation all the same.
    splits = ('train', 'val') if cfg.get('val_cfg') is not None else ('train', )
    check_all(lambda: check_precision(cfg),
              lambda: _loads_all(cfg, args) or check_pretrained(cfg),
              lambda: check_and_report_data(cfg, splits))
    return cfg


def _loads_all(cfg, args) -> bool:
    """Whether all weights come from a checkpoint, so that pretrained ones have no effect."""
    return cfg.get('load_from') is not None and not args.allow_partial_load


def _find_checkpoint(cfg, resume: Optional[str]) -> None:
    """Settle ``load_from`` and ``resume`` of a config: a file on this disk, or none."""
    if resume is None and cfg.get('resume'):  # of the config itself
        resume = cfg.get('load_from') or 'auto'
    if resume is not None:
        cfg.load_from, remark = find_resume(cfg.work_dir, resume)
        cfg.resume = cfg.load_from is not None
        say(f'--resume: from {cfg.load_from}{remark and f" ({remark})"}' if cfg.resume else
            f'--resume: no checkpoint in {cfg.work_dir} yet, so training starts from the beginning')
    elif cfg.get('load_from') is not None:
        cfg.load_from = str(local_file(cfg.load_from))


def train(args) -> None:
    """Train as the command line says.

    Args:
        args (argparse.Namespace): Arguments of ``tools/train.py``.
    """
    if not args.verbose:
        quiet_libraries()
    cfg, started = prepare_config(args), time.time()
    try:
        _run(cfg, args)
    except (KeyboardInterrupt, Exception) as error:
        if find_interrupt(error) is not None:
            say(f'\n{advice_after_interrupt(cfg.work_dir, started, args.launcher)}')
        raise


def _run(cfg, args) -> None:
    setup_distributed(cfg, args.launcher)
    warning = replace_sync_bn(cfg)
    if warning is not None:
        say(warning)
    runner = build_runner(cfg, args.verbose)
    check_same_checkpoint(cfg)
    check_channels(runner.model)
    if cfg.get('load_from') is not None:
        prepare_loading(runner, cfg.load_from, args.allow_partial_load)
    (forget_pretrained if _loads_all(cfg, args) else check_pretrained_weights)(runner.model)
    prepare_mixed_training(runner)
    if args.compile:
        compile_backbone(runner.model)
    keep_config(runner, args.load_from)
    runner.train()


@master_only
def keep_config(runner, load_from: Optional[str] = None) -> None:
    """Write the config of a training that really starts into its work dir.

    MMEngine writes it before anything was checked, in tests too, and with the checkpoint that a
    training was resumed from, which a training from this copy would go on with.
    """
    kept = copy.deepcopy(runner.cfg)
    kept.load_from, kept.resume = load_from, False
    name = Path(kept.filename).name if kept.filename else f'{runner.timestamp}.py'
    write_atomically(Path(runner.work_dir, name), kept.dump)
