"""Exit codes and messages of all command line tools."""
import atexit
import errno
import os
import select
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Callable, NoReturn, Optional

import torch

from ..checkpoints import CorruptCheckpointError, KeyMismatchError, UnsafeCheckpointError
from ..checkpoints.files import let_mmengine_read_safely
from ..errors import UserError, as_user_error, find_interrupt, raised_in

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_NOT_READ = 141  # as the shell says of a program that SIGPIPE ends
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
             errno.ENAMETOOLONG)
_MESSAGES = (UserError, UnsafeCheckpointError, CorruptCheckpointError, KeyMismatchError)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which clusters send before they kill; everything cleans up as after Ctrl-C."""


def _listen_to_sigterm() -> None:
    main_process = os.getpid()

    def terminate(number, frame):
        if os.getpid() == main_process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a worker of a data loader
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, terminate)


def user_message(error: BaseException) -> Optional[str]:
    """Return the text to show for a mistake in a config or command line, None for a defect.

    Mistakes are what was raised as a message (:class:`UserError` and the errors of checkpoints),
    a full disk, a file that cannot be read or written where it is, and what MMEngine raises for
    names, arguments and schedules of a config that it cannot use.
    """
    module, text = raised_in(error), str(error)
    if isinstance(error, _MESSAGES):
        return text
    if isinstance(error, OSError) and error.errno in _FULL:
        what = f' ({error.filename} could not be written)' if error.filename else ''
        return (f'The disk is full{what}: free some space and run this again. What was saved '
                'before is whole.')
    if isinstance(error, OSError) and error.errno in _NO_PLACE and (
            error.filename and error.strerror):
        # The second one, if any, is what the first one, a temporary file, was to become.
        return f'{error.filename2 or error.filename} cannot be read or written: {error.strerror}.'
    if isinstance(error, ValueError) and module.startswith('mmengine.optim.scheduler'):
        return (f'param_scheduler of the config does not work: {text}. A schedule without an end '
                'lasts until train_cfg.max_epochs, which must be later than its begin.')
    if isinstance(error, KeyError) and ' registry' in text and 'is not in the' in text:
        return f'The config names something unknown: {error.args[0]}'
    if isinstance(error, TypeError) and 'unexpected keyword argument' in text and (
            module.startswith('mmengine.registry') or 'BaseBackbone.__init__()' in text):
        return f'The config sets something unknown: {text}'
    return None


@contextmanager
def user_errors() -> Iterator[None]:
    """For code that programs call: all that :func:`user_message` explains is a ``UserError``."""
    try:
        with as_user_error():
            yield
    except UserError:
        raise
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        raise UserError(message) from error


def typed_command(words: Sequence[str]) -> str:
    """The shell command of a tool with these words, of which the first one is its file.

    Args:
        words (Sequence[str]): ``sys.argv``, or some of it. The command ``mmcontainer`` calls a tool
            'mmcontainer NAME' there.
    """
    if words[0].startswith('mmcontainer '):
        return f'{words[0]} {shlex.join(words[1:])}'.rstrip()
    return f'{shlex.quote(sys.executable)} {shlex.join(words)}'


def run_tool(main: Callable[[], Optional[int]]) -> None:
    """Run the main function of a tool and exit.

    Exit codes: what ``main`` returned (None is 0), 2 after a mistake of the user, which is shown
    without a traceback, 130 after Ctrl-C, 141 where the reader of the output went away, 143 after
    SIGTERM. Defects keep their traceback.
    """
    # Reading a file must not run code: torch.load never falls back to unrestricted unpickling.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    # PyTorch refuses to read anything if this variable, which means the opposite, is set, too.
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    let_mmengine_read_safely()
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by who started the tool; libraries do not expect it
            setattr(sys, name, open(os.devnull, 'w'))
    # A file name that the terminal's encoding does not have is no reason to stop.
    sys.stdout.reconfigure(errors='backslashreplace')
    _listen_to_sigterm()
    try:
        code = main() or 0
        sys.stdout.flush()  # here, and not at Python's end, a failure of it can be explained
    except (KeyboardInterrupt, Exception) as error:
        code = _explain(error)
        if code is None:
            raise
    _leave(code)


def _explain(error: BaseException) -> Optional[int]:
    """Print what a person needs to know of an error; its exit code, None for a defect of ours."""
    interrupt = find_interrupt(error)
    if interrupt is not None:
        is_terminated = isinstance(interrupt, Terminated)
        print('\nTerminated.' if is_terminated else '\nInterrupted.', file=sys.stderr)
        return EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError) and _is_unread():
        return EXIT_NOT_READ
    message = user_message(error)
    if message is None:
        return None
    # Once per machine of torchrun. Processes of Slurm and MPI may be tools of their own.
    if os.environ.get('LOCAL_RANK', '0') == '0':
        print(f'error: {message}', file=sys.stderr)
    return EXIT_USER_ERROR


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more: `| head`."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (OSError, ValueError):  # no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _finish_output() -> None:
    """Write what is left of the output, or drop it: Python would try again, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(code: int) -> NoReturn:
    """Exit; after work in several processes without taking the interpreter down.

    ``DistributedDataParallel`` keeps its process group alive for good, even if the group is
    destroyed. Now and then such a process aborted after all was done: most likely when a thread of
    the group let go of its last tensor while the interpreter was being taken down.
    """
    _finish_output()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(code)
    if code == 0:  # else the other processes may be waiting in the middle of something
        torch.distributed.destroy_process_group()
    # What Python does at its end, as far as a run needs it.
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
