"""The logic of tools/setup_env.py with a runner that only pretends: no network, no compiler."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest

PROBE = {'torch': '2.12.1+cu130', 'cuda': '13.0', 'gpu': False, 'archs': [], 'python': 'cp311'}
KEY = 'onedl-mmcv-2.3.6-torch2.12.1+cu130-cp311-cpu-x86_64'


@pytest.fixture(scope='module')
def tools(repo_root):
    """The modules of the set-up, imported the way the script imports them."""
    sys.path.insert(0, str(repo_root / 'tools'))
    try:
        import setup_checks
        import setup_env
        import setup_runner
    finally:
        sys.path.pop(0)
    return SimpleNamespace(env=setup_env, runner=setup_runner, checks=setup_checks)


class FakeRunner:
    """Answers what Python, pip and the probes would, and remembers what it was asked."""

    def __init__(self, tools, environment_folder):
        self.tools, self.folder = tools, environment_folder
        self.commands, self.probe = [], dict(PROBE)
        self.broken_ops, self.fail_on, self.with_ext = 0, None, True

    def capture(self, command, env=None):
        command = [str(part) for part in command]
        self.commands.append(command)
        code = command[-1]
        if command[1:3] == ['-m', 'venv']:
            (self.folder / 'bin').mkdir(parents=True)
            (self.folder / 'bin' / 'python').touch()
            (self.folder / 'pyvenv.cfg').touch()
        elif code.startswith('import pip'):
            if not (self.folder / 'bin' / 'python').exists():
                raise FileNotFoundError(command[0])
            return 'cp311\n'
        elif code == self.tools.env.TORCH_PROBE:
            return 'some warning\n' + json.dumps(self.probe)
        elif code == self.tools.env.OPS_PROBE:
            if self.broken_ops:
                self.broken_ops -= 1
                raise self.tools.runner.StepFailed(command, 1, 'ImportError: undefined symbol: x')
            return self.probe['torch'] + ' /x/_ext.so\n'
        return ''

    def stream(self, command, env=None, on_line=None):
        command = [str(part) for part in command]
        self.commands.append(command)
        verb = command[3]
        if self.fail_on and self.fail_on[0] in ' '.join(command):
            raise self.fail_on[1]
        if verb == 'install':
            on_line('Installing collected packages: x\n')
        if verb == 'wheel':
            self.build_env = env
            folder = command[command.index('-w') + 1]
            with zipfile.ZipFile(f'{folder}/onedl_mmcv-2.3.6-cp311-linux.whl', 'w') as wheel:
                wheel.writestr('mmcv/__init__.py', '')
                if self.with_ext:
                    wheel.writestr('mmcv/_ext.cpython-311-x86_64-linux-gnu.so', b'compiled')

    def verbs(self):
        """Return the pip commands run so far, shortened to what tells them apart."""
        return [command[3] for command in self.commands if command[1:3] == ['-m', 'pip']]


@pytest.fixture
def setup(tools, tmp_path, monkeypatch):
    """A set-up of an environment in a temporary folder; ``run()`` is one call of the script."""
    folder, cache = tmp_path / 'venv', tmp_path / 'cache'
    runner = FakeRunner(tools, folder)
    for name in ('check_python', 'check_compiler', 'check_disk'):
        monkeypatch.setattr(tools.env, name, lambda *_: None)
    monkeypatch.setattr(tools.env.platform, 'machine', lambda: 'x86_64')
    monkeypatch.setattr(tools.env, 'nvcc_version', lambda _: None)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setenv('MMCONTAINER_CACHE', str(cache))
    real = tools.env.Environment
    monkeypatch.setattr(tools.env, 'Environment', lambda *args: real(*args, runner=runner))
    return SimpleNamespace(run=lambda: tools.env.main(['--venv', str(folder)]), runner=runner,
                           folder=folder, cache=cache / 'wheels', tools=tools)


# ---------------------------------------------------------------- pure functions

@pytest.mark.parametrize('change, expected', [
    ({}, KEY),
    ({'torch': '2.12.0+cu130'}, KEY.replace('2.12.1', '2.12.0')),
    ({'torch': '2.12.1+cpu'}, KEY.replace('+cu130', '+cpu')),
    ({'python': 'cp312'}, KEY.replace('cp311', 'cp312'))])
def test_wheel_key_names_everything_the_build_depends_on(tools, change, expected):
    key = tools.env.wheel_key('onedl-mmcv', '2.3.6', {**PROBE, **change}, 'cpu', 'x86_64')
    assert key == expected


@pytest.mark.parametrize('gpu, nvcc, environ, expected', [
    (False, '13.0', {}, 'cpu'), (True, None, {}, 'cpu'), (True, '12.4', {}, 'cpu'),
    (True, '13.0', {}, 'cu130-sm90'), (True, '13.1', {}, 'cu130-sm90'),
    (True, '13.0', {'TORCH_CUDA_ARCH_LIST': '8.0;9.0+PTX'}, 'cu130-8.0-9.0+PTX')])
def test_accelerator(tools, gpu, nvcc, environ, expected):
    probe = {**PROBE, 'gpu': gpu, 'archs': ['90'] if gpu else []}
    assert tools.env.accelerator(probe, nvcc, environ) == expected


def test_cache_folder(tools, tmp_path):
    folder = tools.env.cache_folder
    assert folder({'MMCONTAINER_CACHE': str(tmp_path)}) == tmp_path / 'wheels'
    assert folder({'XDG_CACHE_HOME': str(tmp_path)}) == tmp_path / 'mmcontainer' / 'wheels'
    assert folder({}).parts[-3:] == ('.cache', 'mmcontainer', 'wheels')


@pytest.mark.parametrize('environ, cores, memory, expected', [
    ({}, 2, 23, 2), ({}, 16, 8, 4), ({}, 8, 1, 1), ({'MAX_JOBS': '3'}, 16, 64, 3)])
def test_max_jobs(tools, environ, cores, memory, expected):
    assert tools.checks.max_jobs(environ, cores, memory) == expected


@pytest.mark.parametrize('stack, expected', [('onedl', ('onedl-mmcv', '2.3.6')),
                                             ('upstream', ('mmcv', '2.1.0'))])
def test_mmcv_requirement(tools, stack, expected):
    assert tools.env.mmcv_requirement(stack) == expected


def test_stamp_follows_the_requirements(tools, tmp_path, monkeypatch, repo_root):
    digest = tools.env.requirements_digest('onedl')
    assert digest != tools.env.requirements_digest('upstream')
    stamp = tools.env.stamp_for('onedl', 'cp311', digest)
    assert stamp != tools.env.stamp_for('upstream', 'cp311', digest)
    assert stamp != tools.env.stamp_for('onedl', 'cp312', digest)
    for name in ('requirements', 'mmcontainer'):
        (tmp_path / name).mkdir()
    names = ('requirements/torch.txt', 'requirements/openmmlab-onedl.txt',
             'requirements/runtime.txt', 'requirements/dev.txt', 'setup.py', 'pyproject.toml',
             'mmcontainer/version.py')
    for name in names:
        (tmp_path / name).write_bytes((repo_root / name).read_bytes())
    monkeypatch.setattr(tools.env, 'ROOT', tmp_path)
    assert tools.env.requirements_digest('onedl') == digest
    for name in names:
        with open(tmp_path / name, 'ab') as file:
            file.write(b'# changed')
        changed = tools.env.requirements_digest('onedl')
        assert changed != digest, name
        digest = changed


def test_requirements_edited_during_the_installation_are_installed_next_time(setup, monkeypatch):
    digests = iter(['before', 'after', 'after'])
    monkeypatch.setattr(setup.tools.env, 'requirements_digest', lambda stack: next(digests))
    assert setup.run() == 0
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert 'install' in setup.runner.verbs()
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert setup.runner.verbs() == []


@pytest.mark.parametrize('output, remedy', [
    ('OSError: [Errno 28] No space left on device', 'The disk is full'),
    ('fatal error: Python.h: No such file or directory', 'python3-dev'),
    ("error: command 'g++' failed: No such file or directory", 'apt-get install g++'),
    ('g++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
    ('ImportError: libGL.so.1: cannot open shared object file', 'libgl1'),
    ("NewConnectionError('...: Failed to establish a new connection: [Errno -3] Temporary failure "
     "in name resolution')\nERROR: No matching distribution found for torch", 'check the network'),
    ('ERROR: No matching distribution found for torch==2.12.1', 'has no such version'),
    ('something nobody expected', 'make clean env')])
def test_failed_step_says_what_to_do(tools, output, remedy):
    failed = tools.runner.StepFailed(['pip', 'install', 'x'], 1, 'first\n' * 40 + output)
    message = tools.runner.explain('torch', failed, 'the.log')
    assert 'Failed: torch' in message and '$ pip install x' in message and 'the.log' in message
    assert output.splitlines()[-1] in message
    assert remedy in message.partition('What to do:')[2]
    assert len(message.splitlines()) < 25


# ---------------------------------------------------------------- checks of the machine

@pytest.mark.parametrize('version', [(3, 9), (3, 13), (2, 7)])
def test_unsupported_python(tools, version):
    with pytest.raises(tools.runner.SetupError, match=r'3\.10 to 3\.12.*PYTHON=python3\.11'):
        tools.checks.check_python(version)


def test_supported_python_without_venv(tools, monkeypatch):
    tools.checks.check_python((3, 11))
    monkeypatch.setitem(sys.modules, 'ensurepip', None)
    with pytest.raises(tools.runner.SetupError, match='apt-get install python3.11-venv'):
        tools.checks.check_python((3, 11))


def test_missing_compiler_and_headers(tools, tmp_path):
    with pytest.raises(tools.runner.SetupError, match=r'no C\+\+ compiler.*install g\+\+'):
        tools.checks.check_compiler(find=lambda name: None, include=tmp_path)
    with pytest.raises(tools.runner.SetupError, match=r'Python\.h is missing.*-dev'):
        tools.checks.check_compiler(find=lambda name: name, include=tmp_path)
    (tmp_path / 'Python.h').touch()
    tools.checks.check_compiler(find=lambda name: name, include=tmp_path)


def test_full_disk(tools, tmp_path):
    def usage(gigabytes):
        return lambda path: SimpleNamespace(free=gigabytes * 2 ** 30)
    with pytest.raises(tools.runner.SetupError, match=r'3\.0 GB free.*needs 8'):
        tools.checks.check_disk(tmp_path / 'not' / 'there' / 'yet', usage(3))
    tools.checks.check_disk(tmp_path / 'not' / 'there' / 'yet', usage(9))


# ---------------------------------------------------------------- the steps

def test_first_run_installs_in_order_and_second_run_does_nothing(setup, capsys):
    assert setup.run() == 0
    assert setup.runner.verbs() == ['install', 'wheel', 'install', 'install', 'install']
    pips = [command for command in setup.runner.commands if command[1:3] == ['-m', 'pip']]
    assert pips[0][5].endswith('torch.txt') and '-c' in pips[0]
    assert {'--no-cache-dir', '--no-build-isolation', '--no-deps'} <= set(pips[1])
    assert pips[2][-1].endswith('.whl') and KEY in pips[2][-1]
    assert [part.rpartition('/')[2] for part in pips[3] if part.endswith('.txt')] == [
        'openmmlab-onedl.txt', 'runtime.txt', 'dev.txt', 'openmmlab-onedl.txt']
    assert {'-e', '--no-deps', '--no-build-isolation'} <= set(pips[4])
    assert setup.runner.build_env['MMCV_WITH_OPS'] == '1'
    assert setup.runner.build_env['CUDA_VISIBLE_DEVICES'] == ''
    assert setup.runner.build_env['PATH'].startswith(str(setup.folder / 'bin'))
    output = capsys.readouterr().out
    assert '[1/6]' in output and '[6/6]' in output and 'min' in output
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert setup.runner.verbs() == []
    assert setup.tools.env.OPS_PROBE in [command[-1] for command in setup.runner.commands]
    assert 'is complete' in capsys.readouterr().out


def test_record_tells_what_mmcv_was_compiled_for(setup):
    setup.run()
    record = json.loads((setup.folder / setup.tools.env.BUILD_RECORD).read_text())
    assert record['torch'] == PROBE['torch'] and record['target'] == 'cpu'
    assert record['ext_sha256'] == hashlib.sha256(b'compiled').hexdigest()


def test_cached_wheel_is_used_for_the_same_torch_only(setup):
    setup.run()
    (setup.folder / setup.tools.env.STAMP).unlink()
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert 'wheel' not in setup.runner.verbs()
    setup.runner.probe['torch'] = '2.13.0+cu130'
    assert setup.run() == 0
    assert 'wheel' in setup.runner.verbs()
    assert sorted(path.name for path in setup.cache.iterdir()) == sorted(
        [KEY, KEY.replace('2.12.1', '2.13.0')])


def test_cached_wheel_that_does_not_import_is_compiled_again(setup, capsys):
    setup.run()
    (setup.folder / setup.tools.env.STAMP).unlink()
    setup.runner.commands.clear()
    setup.runner.broken_ops = 1
    assert setup.run() == 0
    assert setup.runner.verbs().count('wheel') == 1
    assert 'undefined symbol' in capsys.readouterr().out


def test_operators_that_never_work_are_an_error_without_a_stamp(setup, capsys):
    setup.runner.broken_ops = 9
    assert setup.run() == 1
    assert not (setup.folder / setup.tools.env.STAMP).exists()
    assert 'undefined symbol' in capsys.readouterr().out


def test_operators_broken_later_are_mended(setup):
    setup.run()
    setup.runner.commands.clear()
    setup.runner.broken_ops = 1
    assert setup.run() == 0
    assert 'install' in setup.runner.verbs()


@pytest.mark.parametrize('failure, code', [('interrupt', 130), ('error', 1)])
def test_interrupted_build_leaves_no_wheel_in_the_cache(setup, capsys, failure, code):
    error = KeyboardInterrupt() if failure == 'interrupt' else setup.tools.runner.StepFailed(
        ['pip', 'wheel'], 1, 'Killed signal terminated program cc1plus')
    setup.runner.fail_on = ('pip wheel', error)
    assert setup.run() == code
    assert list(setup.cache.iterdir()) == []
    output = capsys.readouterr().out
    assert ('Interrupted' if code == 130 else 'MAX_JOBS=1') in output
    assert 'Traceback' not in output
    setup.runner.fail_on = None
    assert setup.run() == 0


def test_wheel_without_operators_does_not_enter_the_cache(setup, capsys):
    setup.runner.with_ext = False
    assert setup.run() == 1
    assert list(setup.cache.iterdir()) == []
    assert 'without compiled operators' in capsys.readouterr().out


def test_interrupted_installation_makes_the_environment_anew(setup):
    """pip was writing: a package may be half there and still count as installed."""
    original = setup.runner.stream

    def stream(command, env=None, on_line=None):
        on_line('Installing collected packages: torch\n')
        raise KeyboardInterrupt

    setup.runner.stream = stream
    assert setup.run() == 130
    assert (setup.folder / setup.tools.env.DIRTY).exists()
    setup.runner.stream = original
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert ['-m', 'venv'] in [command[1:3] for command in setup.runner.commands]
    assert not (setup.folder / setup.tools.env.DIRTY).exists()


def test_interrupted_download_keeps_the_environment(setup):
    setup.runner.fail_on = ('torch.txt', KeyboardInterrupt())
    assert setup.run() == 130
    assert not (setup.folder / setup.tools.env.DIRTY).exists()
    setup.runner.fail_on = None
    setup.runner.commands.clear()
    assert setup.run() == 0
    assert ['-m', 'venv'] not in [command[1:3] for command in setup.runner.commands]


def test_half_made_environment_is_made_anew(setup):
    (setup.folder / 'bin').mkdir(parents=True)
    (setup.folder / 'pyvenv.cfg').touch()
    assert setup.run() == 0


def test_a_folder_that_is_no_environment_is_never_touched(setup, capsys):
    setup.folder.mkdir()
    (setup.folder / 'thesis.tex').write_text('years of work')
    assert setup.run() == 1
    assert (setup.folder / 'thesis.tex').read_text() == 'years of work'
    assert 'is no virtual environment (it holds thesis.tex)' in capsys.readouterr().out


def test_gpu_without_nvcc_is_said(setup, capsys):
    setup.runner.probe.update(gpu=True, archs=['90'])
    assert setup.run() == 0
    assert 'will run on the CPU only' in capsys.readouterr().out


def test_network_failure_is_explained(setup, capsys):
    setup.runner.fail_on = ('torch.txt', setup.tools.runner.StepFailed(
        ['pip', 'install', '-r', 'torch.txt'], 1, 'Temporary failure in name resolution'))
    assert setup.run() == 1
    output = capsys.readouterr().out
    assert '$ pip install -r torch.txt' in output and 'check the network' in output


# ---------------------------------------------------------------- real processes

def test_runner_logs_shows_and_fails(tools, tmp_path, capsys):
    runner = tools.runner.Runner(tmp_path / 'x.log')
    code = 'print("Downloading a"); print("quiet"); raise SystemExit(3)'
    with pytest.raises(tools.runner.StepFailed) as caught:
        runner.stream([sys.executable, '-c', code])
    assert caught.value.code == 3 and 'quiet' in caught.value.output
    assert 'quiet' in (tmp_path / 'x.log').read_text()
    shown = capsys.readouterr().out
    assert 'Downloading a' in shown and 'quiet' not in shown


def test_ctrl_c_ends_the_children_and_prints_one_line(repo_root, tmp_path):
    """A real process tree: the script, 'pip', and a 'compiler' below it."""
    code = f'''
import sys
sys.path.insert(0, {str(repo_root / "tools")!r})
import setup_env
child = 'import subprocess, sys; subprocess.run([sys.executable, "-c", sys.argv[1]])'
worker = 'import os, pathlib, time; pathlib.Path("pid").write_text(str(os.getpid()))' \\
         '; time.sleep(60)'
setup_env.Environment.is_complete = lambda self: False
setup_env.check_machine = lambda environment: environment.runner.stream(
    [sys.executable, '-c', child, worker])
sys.exit(setup_env.main(['--venv', {str(tmp_path / "venv")!r}]))
'''
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, 'the worker did not start'
        time.sleep(0.05)
    worker = int((tmp_path / 'pid').read_text())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 'Traceback' not in output
    assert output.strip().splitlines()[-1].startswith('Interrupted.')
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail('the worker still runs')
