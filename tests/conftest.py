"""Fixtures that every test may use."""
import copy
import functools
import os
import runpy
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from quick_configs import quicken_configs
from tool_server import Tools, ToolServer

# Several torch processes on few cores slow each other down many times over, so tests that start
# processes, and pytest itself, keep to one thread each.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# What the tools do as well: no code of a checkpoint file is ever run.
os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
# A shell starts background jobs (some CI runners do) with SIGINT ignored; children inherit that and
# tests that press Ctrl-C in a child would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session', autouse=True)
def checkpoints_are_read_as_by_the_tools():
    """With old PyTorch, MMEngine could not resume from its own files without it."""
    from mmcontainer.checkpoints.files import let_mmengine_read_safely
    let_mmengine_read_safely()


@pytest.fixture(scope='session', autouse=True)
def configs_are_parsed_once():
    """Many tests read a config of ours: each gets a copy. Files that tests write are parsed."""
    from mmengine.config import Config
    parse = Config.fromfile
    cached = functools.cache(parse)

    def fromfile(filename, *args, **kwargs):
        if (REPO_ROOT / 'configs') in Path(filename).resolve().parents:
            return copy.deepcopy(cached(str(filename), *args, **kwargs))
        return parse(filename, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        quicken_configs(patch.setattr)
        patch.setattr(Config, 'fromfile', staticmethod(fromfile))
        yield


def _global_registers():
    """Dicts in which MMEngine keeps loggers, visualizers, message hubs and the default scope."""
    from mmengine.utils import ManagerMixin
    kinds = [ManagerMixin]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return [kind.__dict__['_instance_dict'] for kind in kinds
            if '_instance_dict' in kind.__dict__]


@contextmanager
def _registers_restored():
    before = {id(register): dict(register) for register in _global_registers()}
    yield
    for register in _global_registers():
        register.clear()
        register.update(before.get(id(register), {}))


@pytest.fixture(autouse=True, scope='module')
def nothing_global_is_left_by_fixtures_of_a_file():
    with _registers_restored():
        yield


@pytest.fixture(autouse=True)
def nothing_global_is_left(configs_are_parsed_once, nothing_global_is_left_by_fixtures_of_a_file):
    """Tests run in any order: the default scope of one is not that of the next.

    A logger would even write into the captured output of a test that has ended, which is closed.
    And all backbones share one ``forward``, which torch.compile compiles eight times at most.
    """
    with _registers_restored():
        yield
    if 'torch._dynamo' in sys.modules:
        sys.modules['torch._dynamo'].reset()


@pytest.fixture(scope='session')
def repo_root():
    """Root folder of the checkout."""
    return REPO_ROOT


@pytest.fixture(scope='session')
def real_data():
    """Folder of real data sets (coco128, bccd), named by MMCONTAINER_TEST_DATA."""
    folder = os.environ.get('MMCONTAINER_TEST_DATA')
    if not folder:
        pytest.skip('needs real data: set MMCONTAINER_TEST_DATA to the folder that holds coco128/ '
                    'and bccd/')
    if not Path(folder).is_dir():
        pytest.skip(f'needs real data, but MMCONTAINER_TEST_DATA={folder} is no folder')
    return Path(folder).resolve()


@pytest.fixture(scope='session')
def tool_server():
    """Runs tools in forks of a process that has imported the libraries; None where it cannot."""
    import torch
    if torch.cuda.is_available():  # a fork cannot use CUDA if its parent has looked for GPUs
        yield None
        return
    server = ToolServer()
    yield server
    server.close()


@pytest.fixture
def run_tool(tmp_path, tool_server):
    """Return a function that runs a tool in a fork: see ``Tools``."""
    return Tools(tmp_path, tool_server)


@pytest.fixture
def launch_tool(tmp_path):
    """Return a function that launches a tool: see ``Tools``. At least one test per tool does so."""
    return Tools(tmp_path)


@pytest.fixture
def call_tool(tmp_path, monkeypatch, capsys):
    """Return a function that runs a tool in this process, in an empty folder.

    It is for mistakes: what they leave behind is a message, and libraries need not be imported for
    each. It returns what was printed.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(REPO_ROOT / 'tools')  # as for any script that Python runs

    def call(tool, *arguments, code=2):
        path = str(REPO_ROOT / 'tools' / tool)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(path, run_name='__main__')
        output = ''.join(capsys.readouterr())
        assert caught.value.code == code, output
        return output

    return call


@pytest.fixture
def unmeasured():
    """The environment without the measurement of coverage.

    Coverage starts in every fork, where a Ctrl-C would meet it and end in a traceback of its own.
    """
    return {key: value for key, value in os.environ.items() if not key.startswith('COVERAGE_')}
