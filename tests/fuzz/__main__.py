"""Throw generated cases at what reads users' files: make fuzz, or PYTHONPATH=tests python -m fuzz.

Everything runs in this process. The exit code is 1 if anything came out badly; the last lines are a
table: how many cases were tried, refused with a message, accepted rightly, and bad.
"""
import argparse
import sys

from . import DOMAINS
from .harness import run, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cases', type=int, default=250, help='of each domain (250)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--domain', nargs='+', choices=DOMAINS, default=list(DOMAINS))
    args = parser.parse_args()
    results = run({name: DOMAINS[name] for name in args.domain}, args.cases, args.seed)
    print('\n'.join(table(results)))
    return int(any(figures.bad for figures in results.values()))


if __name__ == '__main__':
    sys.exit(main())
