"""What the command lines of all tools have in common.

Nothing here imports PyTorch or an OpenMMLab library, which takes seconds: `--help` and a misspelt
option are answered at once.
"""
import argparse
import sys


def make_parser(doc, examples, note=''):
    """Return a parser whose help shows what a tool is for, its options and examples.

    Args:
        doc (str): Docstring of the tool.
        examples (list[str]): Command lines without the name of the tool.
        note (str): What else there is to say, behind the options.
    """
    # The command `mmcontainer` calls a tool 'mmcontainer NAME'.
    prog = sys.argv[0] if sys.argv[0].startswith('mmcontainer ') else f'python {sys.argv[0]}'
    shown = '\n'.join(f'  {prog} {example}'.rstrip() for example in examples)
    return argparse.ArgumentParser(
        prog=prog, description=doc.strip(), formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n\n'.join(filter(None, [note.strip(), f'examples:\n{shown}'])))


def start(args, main):
    """Run ``main(args)``, exit with what it returns, and show mistakes as messages."""
    from mmcontainer.cli.tool import run_tool
    run_tool(lambda: main(args))


class _Options(argparse.Action):
    """``KEY=VALUE`` pairs into a dict, by the rules of MMEngine."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmcontainer.cli.options import OptionAction
        OptionAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_config_options(parser):
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=_Options, metavar='KEY=VALUE',
        help='change the config: train_cfg.max_epochs=3 model.backbone.drop_path_rate=0.2 '
        'key="[a,b]" key="[(a,b),(c,d)]"; quote, and no blanks')


def add_run_arguments(parser):
    """Add the options that training and testing have in common."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints (work_dirs/CONFIG)')
    parser.add_argument('--data-root', metavar='DIR',
                        help='read all data sets and annotations of the config from this folder')
    add_config_options(parser)
    parser.add_argument('--verbose', action='store_true',
                        help='show all that the log file gets: environment, config, hooks ...')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how several processes were started (dist_*.sh sets it)')
    # Old launchers pass it as an argument, torchrun by the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help='set by launchers')


def add_inference_options(parser):
    """Add the options that testing and inference have in common."""
    parser.add_argument('--amp', choices=['bf16'],
                        help='bfloat16 in backbone, neck and dense heads, on newer GPUs and CPUs')
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbone')
    parser.add_argument('--no-deploy', action='store_true',
                        help='run the backbone as it was trained, not its form for inference')
