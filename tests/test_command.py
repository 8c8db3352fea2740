"""The command ``mmcontainer``, and the parsers of the tools behind it."""
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmcontainer_command as command

TOOLS = sorted(Path(command.__file__).parent.glob('tools/[a-z]*.py'))
# For a machine without the package, copied there: they take no part.
OF_THE_CHECKOUT = {'install_wheelhouse.py', 'make_wheelhouse.py', 'onnx_detect.py'}


@pytest.fixture
def run(tmp_path, repo_root):
    """Return a function that runs the command as its script does: (code, stdout, stderr)."""

    def call(*words, code='import sys, mmcontainer_command; sys.exit(mmcontainer_command.main())'):
        done = subprocess.run(
            [sys.executable, '-c', code, *words], cwd=tmp_path, text=True, capture_output=True,
            env={**os.environ, 'PYTHONPATH': str(repo_root)})
        return done.returncode, done.stdout, done.stderr

    return call


# Fails where anything imports one of the libraries that take seconds.
WITHOUT_LIBRARIES = '''
import sys
for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'cv2'):
    sys.modules[name] = None
import mmcontainer_command
sys.exit(mmcontainer_command.main())
'''


def test_every_tool_is_a_command():
    behind = {file.name for file in TOOLS} - OF_THE_CHECKOUT
    assert behind | {'doctor.py'} == set(command.COMMANDS.values())
    assert len(set(command.COMMANDS.values())) == len(command.COMMANDS)


def test_help_lists_the_commands_with_one_line_each(run):
    code, out, _ = run('--help', code=WITHOUT_LIBRARIES)
    assert code == 0 and 'examples:' in out
    for name in command.COMMANDS:
        line, = (line for line in out.splitlines() if line.startswith(f'  {name} '))
        assert line.endswith('.') and len(line.split()) > 3
    without = run(code=WITHOUT_LIBRARIES)
    assert without[:2] == (2, out)  # nothing was asked for


@pytest.mark.parametrize('name', command.COMMANDS)
def test_help_of_a_command_shows_examples_without_the_libraries(run, name):
    code, out, err = run(name, '--help', code=WITHOUT_LIBRARIES)
    assert code == 0, err
    assert out.startswith(f'usage: mmcontainer {name} ')
    if name != 'doctor':
        assert f'\nexamples:\n  mmcontainer {name}' in out


def test_tools_show_their_own_name_in_examples(repo_root, tmp_path):
    done = subprocess.run([sys.executable, 'tools/train.py', '--help'], cwd=repo_root, text=True,
                          capture_output=True)
    assert done.stdout.startswith('usage: python tools/train.py [-h]')
    assert '\n  python tools/train.py configs/' in done.stdout


@pytest.mark.parametrize('name, expected', [
    ('trian', 'Did you mean train?'), ('get_flops', 'Did you mean flops?'),
    ('check_data', 'Did you mean check-data?'), ('xyz', '`mmcontainer --help` lists all')])
def test_unknown_command(run, name, expected):
    code, out, err = run(name, code=WITHOUT_LIBRARIES)
    assert (code, out) == (2, '') and len(err.splitlines()) == 1
    assert f'there is no command {name!r}' in err and expected in err


def test_version(run):
    from mmcontainer import __version__
    assert run('--version', code=WITHOUT_LIBRARIES)[:2] == (0, f'mmcontainer {__version__}\n')


@pytest.mark.parametrize('words, message', [
    (['train', 'a.py', '--ampp', 'bf16'], 'unrecognized arguments: --ampp'),
    (['mmdet', 'print_confg'], "MMDetection has no tool 'print_confg'. It has print_config")])
def test_exit_codes_and_messages_are_those_of_the_tools(run, words, message):
    code, _, err = run(*words)
    assert code == 2 and message in err and 'Traceback' not in err


def test_as_a_module(run):
    assert run('flops', '-h', code='import runpy; runpy.run_module("mmcontainer", '
               'run_name="__main__", alter_sys=False)')[0] == 0


def test_names_that_the_parsers_repeat(repo_root, monkeypatch):
    """They are written there because what has them takes seconds to import."""
    from mmcontainer.checkpoints import SOURCES
    from mmcontainer.cli.images import MAX_PIXELS
    monkeypatch.syspath_prepend(repo_root / 'tools')
    assert set(importlib.import_module('convert_checkpoint').SOURCES) == set(SOURCES)
    assert importlib.import_module('infer').MAX_PIXELS == MAX_PIXELS
