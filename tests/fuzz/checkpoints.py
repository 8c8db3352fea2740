"""Files of weights, whole, broken and hostile, through the loader of every tool."""
import copy
import io
import os
import random
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mmcontainer.backbones import Container
from mmcontainer.checkpoints import load_backbone
from mmcontainer.cli.weights import load_weights
from mmcontainer.errors import as_user_error
from mmcontainer.torch_compat import HAS_SAFE_LOAD

from .harness import Case

ARCH = dict(embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1),
            patch_sizes=(4, 2, 2, 2), num_heads=(None, None, None, 2),
            static=dict(kind='depthwise', kernel_size=3))
# The code that one of the files holds would make this folder.
PROBE = os.path.join(tempfile.mkdtemp(), 'attack')


class Detector(nn.Module):
    """A backbone and something behind it."""

    def __init__(self):
        super().__init__()
        self.backbone = Container(ARCH)
        self.bbox_head = nn.Conv2d(8, 3, 1)


@lru_cache
def _models() -> tuple[nn.Module, dict[str, Tensor]]:
    """The model that is loaded into, and other weights for it."""
    torch.manual_seed(1)
    wanted = Detector().state_dict()
    torch.manual_seed(0)
    return Detector(), wanted


class Attack:
    """Unpickling this makes a file beside."""

    def __reduce__(self):
        return os.mkdir, (PROBE, )


def _on_floats(change: Callable[[Tensor], Tensor]) -> Callable:
    """Change one weight of the kind that is trained."""

    def apply(state: dict, rng: random.Random) -> None:
        key = rng.choice([key for key, value in state.items() if value.is_floating_point()
                          and value.ndim])
        state[key] = change(state[key].clone())

    return apply


def _fill(value: float) -> Callable:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return _on_floats(change)


def _all(change: Callable[[Tensor], Tensor]) -> Callable:
    def apply(state: dict, rng: random.Random) -> None:
        for key, value in state.items():
            state[key] = change(value) if value.is_floating_point() else value

    return apply


def _remove(state: dict, rng: random.Random) -> None:
    del state[rng.choice([key for key in state if 'num_batches_tracked' not in key])]


def _rename(state: dict, rng: random.Random) -> None:
    key = rng.choice(list(state))
    state[f'{key}_'] = state.pop(key)


def _prefix(prefix: str) -> Callable:
    def apply(state: dict, rng: random.Random) -> None:
        for key in list(state):
            state[prefix + key] = state.pop(key)

    return apply


WEIGHTS = [
    ('nothing', 'accept', lambda state, rng: None),
    ('float16', 'accept', _all(torch.Tensor.half)),
    ('float64', 'accept', _all(torch.Tensor.double)),
    ('bfloat16', 'accept', _all(torch.Tensor.bfloat16)),
    ('of data parallel training', 'accept', _prefix('module.')),
    ('not contiguous', 'accept', _on_floats(lambda t: t.mT.contiguous().mT if t.ndim > 1 else t)),
    ('a view of more', 'accept', _on_floats(lambda t: torch.cat([t, t])[:len(t)])),
    ('without counters of batches', 'accept', lambda state, rng: [
        state.pop(key) for key in list(state) if key.endswith('num_batches_tracked')]),
    ('NaN', 'refuse', _fill(float('nan'))),
    ('infinity', 'refuse', _fill(float('-inf'))),
    ('NaN in float16', 'refuse', lambda state, rng: (
        _fill(float('nan'))(state, rng), _all(torch.Tensor.half)(state, rng))),
    ('integers', 'refuse', _on_floats(torch.Tensor.int)),
    ('complex', 'refuse', _on_floats(lambda t: t.to(torch.complex64))),
    ('sparse', 'refuse', _on_floats(torch.Tensor.to_sparse)),
    ('quantised', 'refuse', _on_floats(
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8))),
    ('on the meta device', 'refuse', _on_floats(lambda t: t.to('meta'))),
    ('of another shape', 'refuse', _on_floats(lambda t: t[:-1] if len(t) > 1 else t[None])),
    ('transposed', 'refuse', _on_floats(lambda t: t[None])),
    ('missing', 'refuse', _remove),
    ('renamed', 'refuse', _rename),
    ('of another model', 'refuse', lambda state, rng: (
        state.clear(), state.update(nn.Conv2d(3, 8, 3).state_dict()))),
    ('a list', 'refuse', lambda state, rng: state.update(more=[1, 2])),
    ('no tensor at all', 'refuse', lambda state, rng: state.clear()),
    ('code', 'refuse', lambda state, rng: state.update(more=Attack())),
]
WRAPPERS = {
    'alone': lambda state: state,
    'state_dict': lambda state: dict(state_dict=state),
    'model': lambda state: dict(model=state),
    "MMEngine's": lambda state: dict(meta=dict(epoch=1, iter=2, dataset_meta=dict(
        classes=('a', 'b'))), state_dict=state, message_hub={}),
    'beside an optimizer': lambda state: dict(model=state, optimizer=dict(state={}), epoch=3),
}


def _flip(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flip_in_weight(content: bytes, rng: random.Random) -> bytes:
    """One bit of the numbers themselves."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        item = rng.choice([item for item in archive.infolist() if '/data/' in item.filename])
    name, extra = (int.from_bytes(content[item.header_offset + at:item.header_offset + at + 2],
                                  'little') for at in (26, 28))
    start = item.header_offset + 30 + name + extra
    data = bytearray(content)
    data[start + rng.randrange(item.file_size)] ^= 1 << rng.randrange(8)
    return bytes(data)


FILES = [
    ('whole', 'accept', lambda content, rng: content),
    ('whole', 'accept', lambda content, rng: content),
    ('truncated', 'refuse', lambda content, rng: content[:rng.randrange(len(content))]),
    ('with a flipped bit', 'either', _flip),
    ('with a flipped bit of a weight', 'refuse', _flip_in_weight),
    ('empty', 'refuse', lambda content, rng: b''),
    ('a web page', 'refuse', lambda content, rng: b'<!DOCTYPE html><html>Quota</html>'),
    ('zeros', 'refuse', lambda content, rng: bytes(rng.randrange(1, 5000))),
    ('noise', 'refuse', lambda content, rng: rng.randbytes(rng.randrange(1, 5000))),
    ('twice', 'either', lambda content, rng: content + content),
    ('with something before', 'either', lambda content, rng: b'  ' + content),
]


def _save(content, archive: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


def generate(rng: random.Random, folder: Path) -> Case:
    """Weights for a detector or for its backbone, in a file that may be spoilt in one way."""
    base, wanted = _models()
    model, before = copy.deepcopy(base), base.state_dict()
    prefix = rng.choice(('', 'backbone.'))
    state = {key: value for key, value in wanted.items() if key.startswith(prefix)}
    weights, expected, change = rng.choice(WEIGHTS)
    change(state, rng)
    wrapper, kind, spoil = rng.choice(list(WRAPPERS)), 'whole', None
    if expected == 'accept':
        kind, expected, spoil = rng.choice(FILES)
    # Files of before 2020 are no archives, and hold nothing by which a flipped bit is noticed.
    archive = 'bit' in kind or rng.random() < 0.8
    data = _save(WRAPPERS[wrapper](state), archive)
    if not archive and not HAS_SAFE_LOAD:
        expected = 'refuse'
    path = folder / 'weights.pth'
    path.write_bytes(spoil(data, rng) if spoil else data)

    def act() -> None:
        if prefix:
            with as_user_error():
                load_backbone(model.backbone, path)
        else:
            load_weights(model, str(path))
        assert not os.path.exists(PROBE), 'code was run'
        for key, value in model.state_dict().items():
            found = state.get(key, state.get(f'module.{key}'))
            if found is not None:
                assert torch.equal(value, found.to(value.dtype)), f'{key} is not what the file has'

    def unchanged() -> None:
        assert not os.path.exists(PROBE), 'code was run'
        assert list(folder.iterdir()) == [path], 'files were left'
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), f'{key} was loaded'

    return Case(f'{"backbone" if prefix else "detector"}, weights: {weights}, {wrapper}, '
                f'file: {kind}', expected, act, names=('weights.pth', ), unchanged=unchanged)
