"""Tools that fail: mistakes without a traceback, defects with one."""
import errno
import io
import os
import signal
import subprocess
import sys

import pytest
import torch

from mmcontainer.backbones import Container
from mmcontainer.checkpoints import KeyMismatchError
from mmcontainer.cli import tool
from mmcontainer.cli.configs import build_model
from mmcontainer.errors import UserError, as_user_error


def run(action, capsys):
    def main():
        return action() if callable(action) else action

    with pytest.raises(SystemExit) as caught:
        tool.run_tool(main)
    return caught.value.code, capsys.readouterr().err


def fail(error):
    def action():
        raise error
    return action


def test_exit_codes(capsys):
    assert run(None, capsys) == (0, '')
    assert run(1, capsys) == (1, '')
    assert run(fail(UserError('no such file')), capsys) == (2, 'error: no such file\n')
    assert run(fail(KeyMismatchError('keys')), capsys) == (2, 'error: keys\n')
    code, text = run(fail(KeyboardInterrupt()), capsys)
    assert code == 130 and len(text.strip().splitlines()) == 1


def test_defects_keep_their_traceback():
    for error in (ValueError('a defect'), KeyError('a defect'), TypeError('a defect'),
                  FileNotFoundError('a defect')):
        with pytest.raises(type(error), match='a defect'):
            tool.run_tool(fail(error))


GROUP = """
import atexit
import sys
import threading
import time
import torch
from mmcontainer.cli.tool import run_tool
from mmcontainer.errors import UserError

class Held:
    def __del__(self):
        print('taken down')

def main():
    store = torch.distributed.FileStore(sys.argv[1], 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    threading.Thread(target=lambda: time.sleep(1) or print('thread')).start()
    print('done')
    if {mistake}:
        raise UserError('a mistake')

held = Held()
atexit.register(print, 'at exit')
run_tool(main)
"""


@pytest.mark.parametrize('mistake, code', [(False, 0), (True, 2)])
def test_a_member_of_a_process_group_ends_before_python_takes_its_threads_down(
        mistake, code, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', GROUP.format(mistake=mistake), str(tmp_path / 'store')],
        text=True, capture_output=True, timeout=100)
    assert done.returncode == code and done.stdout.split('\n') == [
        'done', 'thread', 'at exit', '']
    assert done.stderr.endswith('error: a mistake\n' if mistake else '')


@pytest.mark.parametrize('settings, hint', [
    (dict(type='Container', arch='lite'), "Did you mean 'light'"),
    (dict(type='Container', frozen_stages=9), 'frozen_stages'),
    (dict(type='Containr'), 'Containr'),
    (dict(type='Container', archh='light'), 'archh'),
])
def test_mistakes_in_a_config(settings, hint, capsys):
    code, text = run(lambda: build_model(settings, 'mmengine'), capsys)
    assert code == 2 and hint in text and 'Traceback' not in text


def test_a_value_that_no_user_wrote_is_a_defect():
    with pytest.raises(ValueError, match="Unknown arch 'lite'"):
        tool.run_tool(lambda: Container('lite'))


def test_only_what_this_package_refuses_becomes_a_message():
    with pytest.raises(UserError, match="Unknown arch 'lite'"), as_user_error():
        Container('lite')
    with pytest.raises(ValueError, match='invalid literal'), as_user_error():
        int('lite')


def test_images_that_the_config_makes_too_small(capsys):
    backbone = build_model(dict(type='ContainerLight'), 'mmengine')
    code, text = run(lambda: backbone(torch.zeros(1, 3, 8, 8)), capsys)
    assert code == 2 and 'at least 32 x 32 pixels' in text


def test_schedule_that_begins_after_the_end(capsys):
    from mmengine.optim import CosineAnnealingLR
    from torch import nn, optim
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.)
    code, text = run(lambda: CosineAnnealingLR(optimizer, begin=5, end=3), capsys)
    assert code == 2 and 'begin=5, end=3' in text and 'max_epochs' in text


def test_one_message_per_machine(capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert run(fail(UserError('x')), capsys) == (2, '')


def test_files_are_read_safely(capsys, monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    run(None, capsys)
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'


def test_names_that_the_terminal_cannot_show(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    with pytest.raises(SystemExit) as exit_:
        tool.run_tool(lambda: print('grün \udce9'))
    assert exit_.value.code == 0
    stream.flush()
    assert stream.buffer.getvalue() == b'gr\\xfcn \\udce9\n'


def test_an_interruption_that_a_library_turned_into_another_error(capsys):
    def library():
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise SyntaxError('cannot be formatted') from error

    code, text = run(library, capsys)
    assert code == 130 and 'Interrupted.' in text and 'cannot be formatted' not in text


def test_full_disk(capsys):
    code, text = run(fail(OSError(errno.ENOSPC, 'No space left on device', 'a.pth')), capsys)
    assert code == 2 and 'The disk is full (a.pth could not be written)' in text


@pytest.mark.parametrize('number', [
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_there(number, capsys):
    reason = os.strerror(number)
    for names in (['a.json'], ['.a.json.tmp', None, 'a.json']):  # of open, of os.replace
        code, text = run(fail(OSError(number, reason, *names)), capsys)
        assert (code, text) == (2, f'error: a.json cannot be read or written: {reason}.\n')
    with pytest.raises(OSError):
        tool.run_tool(fail(OSError(number, reason)))  # of no file


CLOSED = """
import sys
from mmcontainer.cli.tool import run_tool

def main():
    print('lost', sys.stdout.isatty())
    with open('out.txt', 'w') as file:
        file.write('whole')

run_tool(main)
"""


def test_without_standard_output(tmp_path):
    done = subprocess.run(['sh', '-c', '"$0" -c "$1" >&-', sys.executable, CLOSED], text=True,
                          capture_output=True, cwd=tmp_path, timeout=100)
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'out.txt').read_text() == 'whole'


# Written at the end, in between, and at once.
@pytest.mark.parametrize('lines, unbuffered', [(1, ''), (100_000, ''), (1, '1')])
def test_a_reader_that_goes_away(lines, unbuffered):
    script = f"""
import sys
from mmcontainer.cli.tool import run_tool
sys.stdin.readline()
run_tool(lambda: [print('line') for _ in range({lines})] and None)
"""
    tool = subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
    tool.stdout.close()
    _, errors = tool.communicate(b'go on\n', timeout=100)
    assert (tool.returncode, errors) == (141, b'')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_output_into_a_file_on_a_full_disk():
    script = 'from mmcontainer.cli.tool import run_tool; run_tool(lambda: print("line"))'
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-c', script], stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=100,
                              env={**os.environ, 'PYTHONUNBUFFERED': ''})
    assert done.returncode == 2 and done.stderr.startswith('error: The disk is full')
    assert done.stderr.count('\n') == 1


def test_a_pipe_to_something_else_is_no_reader_of_the_output():
    with pytest.raises(BrokenPipeError):
        tool.run_tool(fail(BrokenPipeError(errno.EPIPE, 'Broken pipe')))


def test_sigterm_ends_like_ctrl_c(capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, text = run(lambda: os.kill(os.getpid(), signal.SIGTERM), capsys)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 143 and text.strip() == 'Terminated.'


# Any arguments are fine with the parsers, which know nothing of libraries.
ANY_ARGUMENTS = '''
import argparse, runpy, sys
argparse.ArgumentParser.parse_args = lambda self, words=None: argparse.Namespace(
    to_official=False, smoke=False, work_dir=None, data_dir=None)
sys.path.insert(0, sys.argv[1].rpartition('/')[0])
runpy.run_path(sys.argv[1], run_name='__main__')
'''


def test_ctrl_c_during_imports(repo_root, tmp_path):
    """Of libraries that a tool imports before anything of it runs."""
    (tmp_path / 'mmcontainer').mkdir()
    (tmp_path / 'mmcontainer' / '__init__.py').write_text(
        'import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n')
    tools = [script for script in (repo_root / 'tools').glob('[!_]*.py')
             if not script.name.startswith((  # import little
                 'setup_', 'make_wheel', 'install_', 'onnx_'))]
    assert len(tools) > 10
    for script in tools:
        result = subprocess.run([sys.executable, '-c', ANY_ARGUMENTS, str(script)],
                                capture_output=True, text=True, cwd=tmp_path,
                                env={**os.environ, 'PYTHONPATH': str(tmp_path)})
        assert (result.returncode, result.stderr) == (130, '\nInterrupted.\n'), script.name


def test_commands_that_are_shown_can_be_typed_again():
    assert tool.typed_command(['mmcontainer train', 'my config.py']) == (
        "mmcontainer train 'my config.py'")
    assert tool.typed_command(['tools/train.py', 'a.py']).endswith('python tools/train.py a.py')
    assert tool.typed_command(['mmcontainer demo']) == 'mmcontainer demo'


def test_what_the_api_raises():
    for error in (KeyMismatchError('keys'), UserError('keys'), OSError(errno.ENOSPC, 'full')):
        with pytest.raises(UserError, match='keys|The disk is full'), tool.user_errors():
            raise error
    with pytest.raises(KeyError), tool.user_errors():
        raise KeyError('a defect')
