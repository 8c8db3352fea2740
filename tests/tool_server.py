"""Runs tools in forks of one process that has imported the libraries, which takes most of a start.

A fork has a memory, environment, folder and exit code of its own, so a tool leaves nothing behind
that the next one, or the tests, could see. What a fork does not show is the import of libraries,
and the layout of configs (``quick_configs``): for that there are real launches (the fixture
``launch_tool``).

``ToolServer`` starts ``python tool_server.py``, which reads one request per line from its standard
input, a JSON object, and answers with the exit code of the tool in a line.
"""
import gc
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from quick_configs import quicken_configs

TOOLS = Path(__file__).resolve().parents[1] / 'tools'


class ToolServer:
    """The other end of this file's main program."""

    def __init__(self):
        self._process = None

    def run(self, command, cwd, env, timeout):
        """Run a Python script in a fork.

        Args:
            command (list[str]): Path of the script, and its arguments.
            cwd (Path): The folder it runs in.
            env (dict[str, str]): Its whole environment.
            timeout (float): Seconds after which it is killed.

        Returns:
            tuple[int, str, str]: Exit code (minus the signal that ended it), output, errors.

        Raises:
            subprocess.TimeoutExpired: It had to be killed.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True)
        with tempfile.TemporaryDirectory() as folder:
            request = dict(command=list(map(str, command)), cwd=str(cwd), env=env, timeout=timeout,
                           files=[f'{folder}/out', f'{folder}/err'])
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, 'the tool server has ended'
            out, err = (Path(file).read_text(errors='backslashreplace')
                        for file in request['files'])
        code = json.loads(answer)
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        return code, out, err

    def close(self):
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


class Tools:
    """Runs tools as a user would, in an empty folder.

    Args:
        folder (Path): The folder.
        server (ToolServer, optional): Forks the processes; without it they are launched, which
            takes seconds for the imports.
        python (str, optional): That of another environment, to launch them with.
    """

    def __init__(self, folder, server=None, python=sys.executable):
        self.folder, self.server, self.python = folder, server, python

    def __call__(self, tool, *arguments, code=0, env=None, cwd=None, timeout=300):
        """Run ``tools/{tool}``, or another script by its path.

        Args:
            tool (str): Name or path; what ends with .sh is always launched.
            arguments: Of the command line, not only strings.
            code (int, optional): The exit code that is expected, None for any.
            env (dict, optional): What the environment has beyond that of the tests.
            cwd (Path, optional): Another folder.
            timeout (float): Seconds.

        Returns:
            str: Standard output, and then the errors.
        """
        command = [str(TOOLS / tool), *map(str, arguments)]
        environment = {**os.environ, 'PYTHON': self.python, **(env or {})}
        cwd, is_shell = cwd or self.folder, command[0].endswith('.sh')
        if self.server is not None and not is_shell:
            found, out, err = self.server.run(command, cwd, environment, timeout)
        else:
            done = subprocess.run(
                [*([] if is_shell else [self.python]), *command], cwd=cwd, env=environment,
                text=True, capture_output=True, timeout=timeout)
            found, out, err = done.returncode, done.stdout, done.stderr
        assert code is None or found == code, out + err
        return out + err


def _import_libraries():
    """Import the libraries of all tools, but nothing that starts threads: forks have none.

    PyTorch before 2.5 imports ONNX Runtime, whose thread a fork would wait for at its end.
    """
    sys.modules['onnxruntime'] = None  # not to be imported
    import torch._dynamo  # noqa: F401
    from mmengine.config import Config

    import mmcontainer  # noqa: F401
    with suppress(ModuleNotFoundError):  # tools for backbones do without
        import mmpretrain.utils  # noqa: F401
        from mmdet.utils import register_all_modules
        register_all_modules(init_default_scope=False)
    del sys.modules['onnxruntime']
    quicken_configs(setattr)
    with suppress(ModuleNotFoundError):  # keeps the lists of MMDetection's configs
        Config.fromfile(TOOLS.parent / 'configs/retinanet/container_light_fpn_1x_coco.py')
    gc.collect()
    gc.freeze()  # no fork searches the libraries for garbage


def _wait(pid, timeout):
    """Exit code of a child, None if it was killed because it took too long."""
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(int(timeout))
    try:
        status = os.waitpid(pid, 0)[1]
    except KeyboardInterrupt:  # pressed where the tests run, which takes this process along
        os.killpg(pid, signal.SIGKILL)
        sys.exit(130)
    in_time = signal.alarm(0) or os.WIFEXITED(status)
    return os.waitstatus_to_exitcode(status) if in_time else None


def _serve(requests, answers):
    """Fork for every request; returns the request in the fork, and None at the end."""
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        code = _wait(pid, request['timeout'])
        print(json.dumps(code), file=answers, flush=True)
    return None


def _become(command, cwd, env, files, **_):
    """Turn a fork into what a new process of a script is like."""
    os.setsid()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    streams = [(os.devnull, os.O_RDONLY)] + [(file, os.O_CREAT | os.O_WRONLY) for file in files]
    for number, (file, flags) in enumerate(streams):
        descriptor = os.open(file, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = command
    sys.path[0] = str(Path(command[0]).parent)
    import numpy as np
    import torch
    for seed in (random.seed, np.random.seed, torch.seed):  # each fork another
        seed()


def main():
    """Serve until the standard input ends; a fork runs its tool here, and then is done."""
    # The standard output is for the answers alone, and libraries print while they are imported.
    with os.fdopen(os.dup(1), 'w') as answers, os.fdopen(os.dup(0)) as requests:
        os.dup2(2, 1)
        _import_libraries()
        request = _serve(requests, answers)
        if request is None:
            return
        # The fork's answer is its exit code. Closing would not flush anything: all is written.
    _become(**request)
    runpy.run_path(request['command'][0], run_name='__main__')


if __name__ == '__main__':
    main()
