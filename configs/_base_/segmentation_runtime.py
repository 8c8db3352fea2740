# As default_runtime.py, for MMSegmentation's models.
_base_ = ['mmseg::_base_/default_runtime.py', './plugin.py']
