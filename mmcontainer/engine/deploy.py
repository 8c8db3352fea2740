"""A hook that runs validation and tests on deployed backbones."""
import copy

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from ..backbones import BaseBackbone
from .dense_parts import deploy_dense_parts


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a wrapper for distributed runs."""
    return model.module if is_model_wrapper(model) else model


def own_backbones(model: nn.Module) -> list[BaseBackbone]:
    """Backbones of this package inside a model."""
    return [module for module in model.modules() if isinstance(module, BaseBackbone)]


@HOOKS.register_module()
class DeployHook(Hook):
    """Let validation and tests run on deployed copies of this package's backbones.

    The model itself stays as it is: training goes on with it, checkpoints hold its weights, and
    other hooks may exchange them before and after a validation (EMA). Only a test deploys a
    compiled backbone itself, which cannot be trained any more. Neck and heads compute in
    another way meanwhile (:func:`deploy_dense_parts`). ``dict(type='DeployHook')`` among
    the ``custom_hooks`` of a config adds it.
    """
    priority = 'LOWEST'  # behind the hooks that change weights or statistics before a validation

    def __init__(self):
        self._changed: list[nn.Module] = []

    def before_train_epoch(self, runner) -> None:
        self._restore()  # after a validation that did not come to its end

    def before_val_epoch(self, runner) -> None:
        self._restore()
        for backbone in own_backbones(runner.model):
            # A new copy would be compiled anew, which takes minutes; and a forward that somebody
            # put on the object is called.
            if backbone._compiled_call_impl is None and 'forward' not in vars(backbone):
                self._deploy_copy(backbone, runner)
        self._changed += deploy_dense_parts(unwrap(runner.model))

    def _deploy_copy(self, backbone: BaseBackbone, runner) -> None:
        # Hooks are not copied, and with them what they write to: the same ones are called.
        hooks = {id(kept): kept for module in backbone.modules()
                 for kept in (module._forward_hooks, module._forward_pre_hooks)}
        try:
            copied = copy.deepcopy(backbone, hooks)
        except Exception as error:  # a lock, an open file, maps with gradients: whatever it holds
            runner.logger.warning(f'The backbone is evaluated as it was trained, which is slower: '
                                  f'it cannot be copied ({error}).')
            return
        backbone.forward = copied.switch_to_deploy().forward
        self._changed.append(backbone)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Before other hooks exchange the weights and evaluate once more (EMAHook of MMPretrain).
        if batch_idx + 1 == len(runner.val_dataloader):
            self._restore()

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._restore()

    def _restore(self) -> None:
        for module in self._changed:
            del module.forward
        self._changed.clear()

    def before_test_epoch(self, runner) -> None:
        # Nothing is trained after a test, so that a compiled backbone itself can be deployed;
        # unless its weights will be exchanged one by one.
        if not any(type(hook).__name__ == 'EMAHook' for hook in runner.hooks):
            for backbone in own_backbones(runner.model):
                if backbone._compiled_call_impl is not None:
                    backbone.switch_to_deploy()
        self.before_val_epoch(runner)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if batch_idx + 1 == len(runner.test_dataloader):
            self._restore()

    def after_test_epoch(self, runner, metrics=None) -> None:
        self.after_val_epoch(runner)
