"""torchrun, for dist_train.sh and dist_test.sh, without a traceback of its own after our messages.

torchrun reports a process that failed in thirty lines. Where the tool has already said in one
sentence what is wrong with the config or the command line, only the exit code is passed on.
"""
import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

# Exit codes of a tool that has said what it ended for: a mistake of the user, Ctrl-C, SIGTERM.
EXPLAINED = (2, 130, 143)

if __name__ == '__main__':
    # Its error lines only announce what ChildFailedError says in full.
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code not in EXPLAINED:
            raise
        sys.exit(code)
    except SignalException as error:
        sys.exit(128 + error.sigval)
