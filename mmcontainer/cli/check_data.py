"""``tools/check_data.py``: the whole report on the data of a config."""
from ..data_check import check_data, examine
from ..data_check.repair import describe
from .configs import load_config
from .console import quiet_libraries
from .data_root import set_data_root


def report_data(args) -> int:
    """Print what the data of a config holds.

    Args:
        args (argparse.Namespace): Arguments of ``tools/check_data.py``.

    Returns:
        int: Exit code: 2 if the data cannot be used.

    Raises:
        UserError: If files or folders are missing.
    """
    quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    splits = [split for split in args.splits if cfg.get(f'{split}_dataloader') is not None]
    check_data(cfg, splits)
    report, sound = examine(cfg, splits)
    report.notes += [f'{source.label}: training and testing read a copy: '
                     f'{describe(annotations.repairs)}.'
                     for source, annotations in sound if annotations.repairs]
    print('\n'.join(report.lines()) or 'No annotations to check: no COCO or VOC data sets.')
    return 2 if report.problems else 0
