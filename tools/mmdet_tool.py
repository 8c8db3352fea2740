#!/usr/bin/env python
"""Run a tool that MMDetection installs: tools/mmdet_tool.py analyze_logs plot_curve LOG.json ...

Useful ones: print_config, browse_dataset, analyze_logs, confusion_matrix, coco_error_analysis. What
stands behind the name goes to the tool; `tools/mmdet_tool.py NAME -h` shows its options.
"""
import sys

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import run_tool


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    from mmcontainer.cli.mmdet_tools import run_mmdet_tool
    run_mmdet_tool(sys.argv[1], sys.argv[2:])


if __name__ == '__main__':
    run_tool(main)
