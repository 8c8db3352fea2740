"""The suites by name, with what their processes and files need."""
from . import backbones, detectors

SUITES = {suite.name: suite for suite in (backbones.SUITE, detectors.SUITE)}
