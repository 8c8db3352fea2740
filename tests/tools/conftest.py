"""Fixtures of the tests of scripts."""
import importlib.util
import sys

import pytest


@pytest.fixture(scope='module')
def script(repo_root):
    """tools/onnx_detect.py as a module."""
    spec = importlib.util.spec_from_file_location('onnx_detect', repo_root / 'tools/onnx_detect.py')
    module = sys.modules['onnx_detect'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules['onnx_detect']
