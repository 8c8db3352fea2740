"""The commands that make an environment, and the pins that several files repeat."""
import os
import re
import shutil
import subprocess
import sys

import pytest

from mmcontainer import compat

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip('tomli')

# All, and those that messages and extras name.
ALL_STACKS = ('onedl', 'upstream', 'classic')
STACKS = ('onedl', 'upstream')
# Stands for uv: logs its arguments, and makes what `uv venv` makes.
FAKE_UV = '''#!/bin/sh
echo "$@" >> "$LOG"
if [ "$1" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin" && printf '#!/bin/sh\\nexit 0' > "$folder/bin/python"
    chmod +x "$folder/bin/python"
else
    exit "${PIP_FAILS:-0}"
fi
'''


def stack_file(repo_root, stack):
    """Return the parsed pyproject.toml of a stack."""
    text = (repo_root / 'requirements' / stack / 'pyproject.toml').read_text()
    return tomllib.loads(text)


@pytest.mark.parametrize('stack', ALL_STACKS)
def test_mmcv_is_compiled_with_the_packages_of_the_stack(repo_root, stack):
    """Above all with its torch: operators for another one do not load."""
    settings = stack_file(repo_root, stack)
    pins = settings['project']['dependencies']
    assert all(re.fullmatch(r'[\w-]+==[\w.]+', pin) for pin in pins), pins
    name = next(pin for pin in pins if 'mmcv' in pin).partition('==')[0]
    uv = settings['tool']['uv']
    assert uv['no-binary-package'] == [name]
    assert uv['extra-build-variables'] == {name: {'MMCV_WITH_OPS': '1'}}
    build = uv['extra-build-dependencies'][name]
    assert {pin for pin in pins if pin.startswith(('torch==', 'setuptools=='))} <= set(build)


@pytest.mark.parametrize('stack', STACKS)
def test_commands_for_users_pin_what_the_stack_pins(repo_root, stack):
    pins = stack_file(repo_root, stack)['project']['dependencies']
    assert set(compat.STACKS[stack].values()) <= set(pins)


def test_extras_pin_what_the_stacks_pin(repo_root):
    text = (repo_root / 'setup.py').read_text()
    for stack in STACKS:
        for module in ('mmengine', 'mmdet', 'mmpretrain'):
            assert f"'{compat.STACKS[stack][module]}'" in text


def test_pre_commit_runs_the_pinned_linter(repo_root):
    pin = re.search(r'^ruff==(.+)$', (repo_root / 'requirements' / 'dev.txt').read_text(), re.M)
    assert f'rev: v{pin.group(1)} ' in (repo_root / '.pre-commit-config.yaml').read_text()


@pytest.mark.parametrize('target, stack, venv', [
    ('env', 'onedl', '.venv'), ('env VENV=/x/y', 'onedl', '/x/y'),
    ('setup', 'onedl', '.venv'), ('demo', 'onedl', '.venv'), ('test', 'onedl', '.venv'),
    ('test-stack', 'onedl', '.venv'), ('test-stack STACK=classic', 'classic', '.venv-classic')])
def test_make_calls_the_script(repo_root, target, stack, venv):
    # The make that runs the tests may have been given other variables, which make inherits.
    environment = {key: value for key, value in os.environ.items()
                   if key not in ('MAKEFLAGS', 'MAKEOVERRIDES', 'STACK', 'VENV')}
    done = subprocess.run(['make', '-n', *target.split(), 'PYTHON=python3.11'], cwd=repo_root,
                          text=True, capture_output=True, env=environment)
    assert f'PYTHON=python3.11 tools/make_env.sh {stack} {venv}\n' in done.stdout, done.stderr


def test_make_clean_removes_environments_only(repo_root, tmp_path):
    shutil.copy2(repo_root / 'Makefile', tmp_path)
    for name in ('env', 'thesis'):
        (tmp_path / name).mkdir()
    (tmp_path / 'env' / 'pyvenv.cfg').touch()
    subprocess.run(['make', 'clean', 'VENV=env', 'VENV_DOCS=thesis'], cwd=tmp_path, check=True)
    assert not (tmp_path / 'env').exists() and (tmp_path / 'thesis').exists()


@pytest.fixture
def make_env(repo_root, tmp_path):
    """Run the script with a uv that only pretends; returns (exit code, output, uv's commands)."""
    (tmp_path / 'uv').write_text(FAKE_UV)
    (tmp_path / 'uv').chmod(0o755)

    def run(**environ):
        log = tmp_path / 'log'
        log.write_text('')
        env = {'PATH': '/usr/bin:/bin', 'PYTHON': sys.executable, 'UV': str(tmp_path / 'uv'),
               'LOG': str(log), **environ}
        done = subprocess.run([repo_root / 'tools' / 'make_env.sh', 'onedl', tmp_path / 'venv'],
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        return done.returncode, done.stdout, log.read_text().splitlines()

    return run


def test_environment_is_completed_and_made_anew_after_an_interruption(make_env, tmp_path):
    code, output, commands = make_env(PIP_FAILS='1')
    assert code == 1 and 'Run it again' in output
    assert [command.split()[0] for command in commands] == ['venv', 'pip', 'pip']
    assert '--clear' not in commands[0]
    code, output, commands = make_env()
    assert code == 0 and '--clear' in commands[0], output
    for command in commands[1:]:
        assert '--config-settings-package onedl-mmcv:accelerator=cpu' in command
    assert '--offline' in commands[1] and commands[1].endswith(' onedl-mmcv==2.3.6')
    code, output, commands = make_env()
    assert code == 0 and [command.split()[0] for command in commands] == ['pip', 'pip'], output


def test_unsupported_python_is_refused(make_env, tmp_path):
    old = tmp_path / 'python3.9'
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    code, output, commands = make_env(PYTHON=str(old))
    assert code == 1 and commands == []
    assert 'is Python 3.9.2' in output and 'make env PYTHON=python3.11' in output
