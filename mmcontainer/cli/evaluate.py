"""``tools/test.py``: evaluate a checkpoint."""
from pathlib import Path

from ..config_nodes import evaluators, find_class
from ..data_check.classes import check_checkpoint_classes, classes_of_split
from ..engine.deploy import DeployHook
from ..engine.draw_hooks import DrawDetectionsHook, DrawLabelsHook, DrawMapsHook
from ..engine.dump_maps import DumpMaps
from ..errors import UserError
from .config_changes import add_hook, remove_hook, set_loader_defaults, set_work_dir
from .configs import load_config
from .console import build_runner, quiet_libraries
from .data_root import set_data_root
from .distributed import replace_sync_bn, setup_distributed
from .models import check_channels, prepare_for_inference
from .paths import check_writable_file, check_writable_folder
from .train import check_and_report_data
from .weights import local_file, prepare_loading


def _dump_predictions(cfg, out: str) -> None:
    """Write predictions to a pickle file, as MMDetection's analysis tools read it."""
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: a file that ends with .pkl is expected.')
    out = str(check_writable_file(out, '--out'))
    scope = cfg.get('default_scope', 'mmengine')
    # MMDetection's own kind compresses masks.
    kind = DumpMaps.__name__ if scope == 'mmseg' else (
        'DumpDetResults' if find_class('DumpDetResults', scope) else 'DumpResults')
    cfg.test_evaluator = [*evaluators(cfg, ['test']), dict(type=kind, out_file_path=out)]


def _draw_predictions(cfg, folder: str) -> None:
    kinds = dict(mmpretrain=DrawLabelsHook, mmseg=DrawMapsHook)
    kind = kinds.get(cfg.get('default_scope'), DrawDetectionsHook)
    hook = dict(type=kind.__name__)
    if kind is DrawDetectionsHook:
        given = (cfg.get('default_hooks') or {}).get('visualization') or {}
        hook['score_thr'] = given.get('score_thr', 0.3)
    hook['out_dir'] = str(Path(folder).expanduser().resolve())
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def evaluate(args) -> dict:
    """Evaluate as the command line says.

    Args:
        args (argparse.Namespace): Arguments of ``tools/test.py``.

    Returns:
        dict: Metrics.

    Raises:
        UserError: Anything wrong with config, checkpoint or data, before images are read.
    """
    if not args.verbose:
        quiet_libraries()
    cfg = load_config(args.config, args.cfg_options)
    set_work_dir(cfg, args.work_dir, args.config)
    set_loader_defaults(cfg)
    cfg.load_from, cfg.resume = str(local_file(args.checkpoint)), False
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if args.out is not None:
        _dump_predictions(cfg, args.out)
    check_writable_folder(cfg.work_dir, '--work-dir')
    if args.show_dir is not None:
        check_writable_folder(args.show_dir, '--show-dir')
        _draw_predictions(cfg, args.show_dir)
    check_and_report_data(cfg, ('test', ))
    setup_distributed(cfg, args.launcher)
    replace_sync_bn(cfg)
    (remove_hook if args.no_deploy else add_hook)(cfg, DeployHook.__name__)
    runner = build_runner(cfg, args.verbose)
    check_channels(runner.model)
    content = prepare_loading(runner, cfg.load_from)
    check_checkpoint_classes(content, classes_of_split(cfg, 'test'), cfg.load_from)
    prepare_for_inference(runner.model, args.amp, args.compile)
    return runner.test()
