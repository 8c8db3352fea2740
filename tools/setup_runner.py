"""Running the steps of setup_env.py: output, interruption, and what to tell when one fails.

Standard library only: this runs before anything is installed.
"""
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

HEARTBEAT_SECONDS = 30
SHOWN_PIP_LINES = ('Downloading', 'Building wheel', 'Installing collected', 'Successfully')
# (what to look for in the output of a failed step, what to do), the most certain ones first.
REMEDIES = (
    (r'No space left on device|Errno 28',
     'The disk is full. The environment needs 8 GB (and pip 3 GB more in its cache): free some '
     'space, or put it elsewhere with `make env VENV=/path/on/another/disk`.'),
    (r'Python\.h: No such file',
     "Python's header files are missing, mmcv cannot be compiled: `sudo apt-get install "
     'python3-dev` (for python3.11: python3.11-dev), then run this again.'),
    (r"(g\+\+|gcc|c\+\+)['\"]? failed: No such file|(g\+\+|c\+\+): (command )?not found"
     r'|unable to execute .*(g\+\+|gcc)',
     'There is no C++ compiler, mmcv cannot be compiled: `sudo apt-get install g++`, then run '
     'this again.'),
    (r'Killed signal terminated program|cc1plus.*Killed|out of memory|Cannot allocate memory',
     'The machine ran out of memory while compiling: run again with `MAX_JOBS=1 make env`.'),
    (r'lib(GL|gthread|glib)[-.\w]*: cannot open shared object',
     'OpenCV needs a system library: `sudo apt-get install libgl1 libglib2.0-0`, then run this '
     'again.'),
    (r'Temporary failure in name resolution|Network is unreachable|Connection(Reset|Refused|Error)|'
     r'NewConnectionError|Read ?[Tt]ime(d )?out|Max retries exceeded|ProxyError|SSLError|'
     r'IncompleteRead|hashes? (do not|does not) match',
     'The package index could not be reached: check the network (behind a proxy set HTTPS_PROXY, '
     'with a mirror PIP_INDEX_URL), then run this again; what was downloaded is kept.'),
    (r'No matching distribution found|Could not find a version that satisfies',
     'The package index has no such version for this Python and system. The pinned stack has been '
     'tested on Linux x86_64 with Python 3.11: try `make env PYTHON=python3.11`; with a mirror '
     '(PIP_INDEX_URL), check that it is complete.'),
    (r'Permission denied|Errno 13', 'A folder cannot be written: check who owns it.'),
)
NO_REMEDY = ('Run it again; if it fails in the same way, start afresh with `make clean env`. '
             '`make doctor` examines what is there.')


class SetupError(Exception):
    """What failed and what to do about it, written for the person who ran the command."""


class StepFailed(Exception):
    """A command returned an error; ``output`` holds what it printed."""

    def __init__(self, command, code, output):
        super().__init__(f'{command_text(command)} returned {code}')
        self.command, self.code, self.output = command, code, output


def say(text):
    """Print one line at once, also where the output is a pipe."""
    print(text, flush=True)


def command_text(command):
    """Return a command as one would type it."""
    return ' '.join(str(part) for part in command)


class Runner:
    """Runs commands, shows the telling lines of their output, and keeps all of it in a log."""

    def __init__(self, log):
        self.log = Path(log)

    def capture(self, command, env=None):
        """Return what a short command prints; raises StepFailed if it fails."""
        done = subprocess.run([str(part) for part in command], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise StepFailed(command, done.returncode, done.stdout)
        return done.stdout

    def stream(self, command, env=None, on_line=None):
        """Run a long command; ``on_line`` sees every line. Raises StepFailed if it fails."""
        # A session of its own, so that an interrupt ends the compilers below pip as well.
        process = subprocess.Popen([str(part) for part in command], env=env, text=True,
                                   errors='replace', stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        lines = queue.Queue()
        threading.Thread(target=lambda: [*map(lines.put, process.stdout), lines.put(None)],
                         daemon=True).start()
        try:
            output = self._follow(command, lines, on_line)
            code = process.wait()
        except BaseException:
            end_group(process)
            raise
        if code:
            raise StepFailed(command, code, ''.join(output))

    def _follow(self, command, lines, on_line):
        """Log, show and collect the lines until the end; say now and then that it still runs."""
        started, output = time.monotonic(), []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, 'a', encoding='utf-8') as log:
            log.write(f'\n$ {command_text(command)}\n')
            while True:
                try:
                    line = lines.get(timeout=HEARTBEAT_SECONDS)
                except queue.Empty:
                    say(f'    ... still at it after {duration(time.monotonic() - started)}')
                    continue
                if line is None:
                    return output
                output.append(line)
                log.write(line)
                log.flush()
                if on_line:
                    on_line(line)
                if line.strip().startswith(SHOWN_PIP_LINES):
                    say(f'    {line.strip()[:160]}')


def end_group(process):
    """End a process and everything below it: first politely, after 10 s by force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(timeout=10)
            return


def duration(seconds):
    """Return '45 s' or '7 min'."""
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'


def write_json(path, value):
    """Write a JSON file completely or not at all."""
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
    os.replace(temporary, path)


def read_json(path):
    """Return the content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def explain(title, failed, log):
    """Return the message for a failed step: command, last lines of its output, what to do."""
    lines = [line.rstrip() for line in failed.output.splitlines() if line.strip()]
    remedy = next((text for pattern, text in REMEDIES if re.search(pattern, failed.output)),
                  NO_REMEDY)
    tail = '\n'.join(f'  | {line[:300]}' for line in lines[-15:])
    return (f'Failed: {title}\n  $ {command_text(failed.command)}\n{tail}\n'
            f'  (all of it: {log})\nWhat to do: {remedy}')
