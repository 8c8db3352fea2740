"""The command ``mmcontainer NAME ...``, which runs a tool of this package by its name.

It lies beside the package, not in it: ``import mmcontainer`` imports PyTorch, for which nobody who
asks for help should wait. Every tool is a file of ``tools/`` with a parser of its own; a wheel has
them in ``mmcontainer/.mim/tools/``.
"""
import ast
import os
import runpy
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

# {name: file}, relative to the folder of the tools.
COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'infer': 'infer.py',
    'export': 'export_onnx.py',
    'quantize': 'quantize.py',
    'convert': 'convert_checkpoint.py',
    'check-data': 'check_data.py',
    'reproduce': 'reproduce.py',
    'flops': 'get_flops.py',
    'explore': 'explore.py',
    'affinity': 'visualize_affinity.py',
    'demo': 'demo.py',
    'renumber': 'renumber_categories.py',
    'imagenet-subset': 'make_imagenet_subset.py',
    'mmdet': 'mmdet_tool.py',
    'doctor': 'doctor.py',  # of the package itself, see find_tool
}
EXAMPLES = """examples:
  mmcontainer doctor
  mmcontainer train configs/retinanet/container_light_fpn_1x_coco.py
  mmcontainer infer photo.jpg --config CONFIG --checkpoint CHECKPOINT
  mmcontainer train --help"""


def find_tool(name):
    """Path of the file behind a command."""
    package = Path(find_spec('mmcontainer').submodule_search_locations[0])
    if name == 'doctor':
        return package / COMMANDS[name]
    installed = package / '.mim' / 'tools'
    # A checkout on a file system without links has none there.
    folder = installed if installed.is_dir() else package.parent / 'tools'
    return folder / COMMANDS[name]


def summary(name):
    """First line of what the file behind a command says about itself; it is not run."""
    doc = ast.get_docstring(ast.parse(find_tool(name).read_text(encoding='utf-8')))
    return doc.splitlines()[0]


def show_help():
    """Print all commands."""
    print('usage: mmcontainer COMMAND ...\n\ncommands:')
    for name in COMMANDS:
        print(f'  {name:<16} {summary(name)}')
    print(f'\n`mmcontainer COMMAND --help` shows options and examples.\n\n{EXAMPLES}')


def _show_unknown(name):
    stems = {Path(file).stem: command for command, file in COMMANDS.items()}
    close = dict.fromkeys(stems.get(word, word)
                          for word in get_close_matches(name, [*COMMANDS, *stems], n=3))
    hint = f'Did you mean {" or ".join(close)}? ' if close else ''
    print(f'error: there is no command {name!r}. {hint}`mmcontainer --help` lists all.',
          file=sys.stderr)


def main():
    """Run the command that ``sys.argv`` names.

    Returns:
        int: Exit code, where no tool was run: 2 for a wrong name or none. A tool exits by itself.
    """
    words = sys.argv[1:]
    if not words or words[0] in ('-h', '--help', 'help'):
        show_help()
        return 0 if words else 2
    if words[0] == '--version':
        version = Path(find_spec('mmcontainer').submodule_search_locations[0]) / 'version.py'
        print(f'mmcontainer {runpy.run_path(str(version))["__version__"]}')
        return 0
    if words[0] not in COMMANDS:
        _show_unknown(words[0])
        return 2
    file = find_tool(words[0])
    sys.argv = [f'mmcontainer {words[0]}', *words[1:]]
    sys.path.insert(0, os.path.dirname(file))  # as for any script that Python runs
    # Not by runpy.run_path, which would put the file back into sys.argv.
    exec(compile(file.read_bytes(), str(file), 'exec'),
         {'__name__': '__main__', '__file__': str(file), '__package__': None})
    return 0


if __name__ == '__main__':
    sys.exit(main())
