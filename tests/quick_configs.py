"""What takes most of the time of MMEngine's configs, and of which nothing here depends."""
import ast
import functools


def _parse(text, **_):
    """In place of yapf, which lays out a config before it is logged or saved, for half a second.

    Raises:
        SyntaxError: Where yapf has one as well.
    """
    ast.parse(text)
    return text, False


def quicken_configs(set_attribute):
    """Leave out the layout of written configs, and read a library's lists of configs only once.

    For every ``mmdet::...`` that a config is based on, MMEngine reads the hundred YAML files about
    the published models of MMDetection.

    Args:
        set_attribute (Callable): ``setattr``, or that of a ``pytest.MonkeyPatch``.
    """
    from mmengine.config import config, utils
    from yapf.yapflib import yapf_api
    for module in (config, yapf_api):  # older releases import the function beforehand
        if hasattr(module, 'FormatCode'):
            set_attribute(module, 'FormatCode', _parse)
    set_attribute(utils, 'load', functools.cache(utils.load))
