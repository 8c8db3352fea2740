"""A quiet console for runs, whose log file keeps everything.

Errors, warnings and lines of unknown origin are always shown. Left out are what OpenMMLab's
libraries report at level INFO, except for the rows of ``SHOWN``, and the rows of ``HARMLESS``.
"""
import builtins
import importlib
import logging
import os
import re
import sys
import warnings

from mmengine.logging import MMLogger
from mmengine.logging import logger as mmengine_logger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..engine.summary import SummaryHook
from ..errors import as_user_error

# (start of the message, as a regular expression; why nobody has to read it)
HARMLESS = (
    ('"FileClient" will be deprecated',
     "MMEngine's own CheckpointHook uses MMEngine's old interface, whatever a config says"),
    ('"HardDiskBackend" is the alias of', 'the same place'),
    ('faster_coco_eval is not installed',
     'an optional package for FasterCocoMetric; CocoMetric, which the configs name, does without'),
    ('Could not import OneDL', 'an optional package for data sets of a commercial service'),
    ('pkg_resources is deprecated', 'an import of the upstream packages; setuptools is pinned'),
    ("'pin_memory' argument is set as true but no accelerator",
     'without a GPU there is nothing to pin for, and the data loader goes on unpinned'),
    ('Grad strides do not match bucket view strides',
     'of a dimension of size 1, which depth-wise and 1x1 kernels have, any stride means the same; '
     'DDP compares it all the same, and then copies into its bucket as ever'),
    ('Setting (OMP|MKL)_NUM_THREADS environment variable',
     'with several processes one thread each is the default that is meant'),
    ('The prefix is not set in metric class (Dump|IoUMetric)',
     'the former write a file, and the latter is the only metric of MMSegmentation\'s configs'),
    ('The draw is False', 'pictures are what --show-dir is for'),
    (r'Detected call of `(lr_)?scheduler\.step\(\)` before `optimizer\.step\(\)`',
     'schedules count iterations, of which the first ones of accumulated gradients have no step'),
    ('A new version of Albumentations', 'an advertisement'),
    ('.*invalid escape sequence', 'in the code of libraries; Python 3.12 and newer warn of it'),
    ('`broadcast_buffers` is deprecated', "MMEngine's wrapper of DDP uses it"),
)
# Lines at level INFO that libraries write for people: (module and function, start of the message).
SHOWN = (
    (r'mmengine\.hooks\.logger_hook\.after_\w+_iter', r'(Epoch|Iter)\('),
    (r'.*checkpoint_hook\.', r'Saving checkpoint|The best checkpoint'),
    (r'mmengine\.hooks\.early_stopping_hook\.', ''),
    (r'mmengine\.runner\..*\.resume', 'resumed'),
    (r'mmengine\.runner\..*\.scale_lr', 'LR is set'),
    (r'(mmdet|mmseg)\.evaluation\.', r'\s*\+[-=]'),  # a table per class
)
_LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg', 'pycocotools')
_LOGGING = (__name__, 'logging', 'mmengine.logging.logger')
# They print where others log.
_PRINTING = ('pycocotools.coco', 'pycocotools.cocoeval')


def is_harmless(message: str) -> bool:
    """True for a message that ``HARMLESS`` explains."""
    return any(re.match(pattern, message) for pattern, _ in HARMLESS)


def _origin() -> tuple[str, str]:
    """Module and function that logged the record being handled."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get('__name__') in _LOGGING:
        frame = frame.f_back
    return frame.f_globals.get('__name__', ''), frame.f_code.co_name


class ConsoleFilter(logging.Filter):
    """Lets through what is meant for people; see the module."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            return not is_harmless(message)
        module, function = _origin()
        if module.partition('.')[0] not in _LIBRARIES:
            return True
        return any(re.match(origin, f'{module}.{function}') and re.match(text, message)
                   for origin, text in SHOWN)


class ConsoleFormatter(logging.Formatter):
    """The time of day and the message; of warnings and errors also what they are."""

    def __init__(self):
        super().__init__('%(asctime)s  %(message)s', '%H:%M:%S')

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f'{record.levelname.lower()}: {record.message}'
        # Tables begin with an empty line.
        return super().formatMessage(record).replace('  \n', '\n', 1)


def _print_known(*values, **options) -> None:
    """``print``, but nothing that ``HARMLESS`` explains."""
    if not (values and is_harmless(str(values[0]))):
        builtins.print(*values, **options)


def _print_to_log(*values, **options) -> None:
    """``print`` into the log of the run; on standard output while there is none."""
    if not MMLogger._instance_dict:
        builtins.print(*values, **options)
        return
    MMLogger.get_current_instance().info(' '.join(map(str, values)))


def quiet_libraries() -> None:
    """Leave out warnings of ``HARMLESS``, and send what libraries print to the log.

    Tools call it first, because libraries warn and print while they are imported. Nothing is
    caught that is not known: a ``print`` of another module, a debugger and errors reach the
    terminal as ever.
    """
    for pattern, _ in HARMLESS:
        warnings.filterwarnings('ignore', message=pattern)
    rank = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))
    if rank != '0':  # the first process warns for all
        warnings.simplefilter('ignore')
    # A global of a module goes before the builtin of the same name.
    mmengine_logger.print = _print_known
    for name in _PRINTING:
        try:
            importlib.import_module(name).print = _print_to_log
        except ImportError:  # MMPretrain works without it
            continue


def _tidy_console(logger: MMLogger) -> None:
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # a FileHandler is one, too
            handler.addFilter(ConsoleFilter())
            handler.setFormatter(ConsoleFormatter())


def build_runner(cfg, verbose: bool = False) -> Runner:
    """Build the runner that a config asks for.

    Args:
        cfg (Config): The config; ``runner_type`` names another class than MMEngine's ``Runner``.
        verbose (bool): Leave the console as MMEngine has it: environment, config, hooks and all.

    Raises:
        UserError: An argument that a class of this package refuses.
    """
    kind = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    if (cfg.get('randomness') or {}).get('deterministic'):
        # Without it cuBLAS refuses, and it is read when a GPU is used for the first time.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

    class OurRunner(kind):
        # The logger is built in the constructor, which goes on to log several hundred lines.
        def build_logger(self, *args, **kwargs):
            logger = super().build_logger(*args, **kwargs)
            if not verbose:
                _tidy_console(logger)
            return logger

        def dump_config(self) -> None:
            """Write nothing yet: the work dir may have the config of a training."""

    with as_user_error():
        runner = OurRunner.from_cfg(cfg)
    if not verbose:
        runner.register_hook(SummaryHook())
    return runner
