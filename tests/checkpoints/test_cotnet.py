"""Both official forms of CoTNet's weights: names written down here, independent of the key tables.

The names are those of the module trees and of the lists of missing keys in the official training
logs (github.com/JDAI-CV/CoTNet-ObjectDetection-InstanceSegmentation).
"""
import pickle
import re
import sys
import types

import pytest
import torch
from built import build_empty
from golden_rule import Fixture, read_keys
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcontainer.backbones import CoTNet
from mmcontainer.checkpoints import (
    KeyMismatchError,
    UnsafeCheckpointError,
    convert,
    convert_back,
    detect_source,
    load_backbone,
    load_file,
)
from mmcontainer.checkpoints.official import missing_message

D2 = 'cotnet-detectron2'
FIXTURES = {'cotnet-50': 'cotnet50', 'cotnext-50': 'cotnext50_2x48d',
            'se-cotnetd-50': 'se_cotnetd_50', 'cotnet-101': 'cotnet101',
            'cotnext-101': 'cotnext101_2x48d', 'se-cotnetd-101': 'se_cotnetd_101'}
DETECTORS = ('faster_rcnn', 'cascade_rcnn', 'mask_rcnn', 'cascade_mask_rcnn')
# Entries of detectron2's backbones, classifier and counters of frozen norms not counted.
ENTRIES = {'cotnet-50': 775, 'cotnext-50': 775, 'se-cotnetd-50': 584, 'cotnet-101': 1591,
           'cotnext-101': 1591, 'se-cotnetd-101': 1232}


def _d2_backbone_name(key, deep):
    """The documented renaming of one classification key, in words of regular expressions."""
    key = re.sub(r'^fc\.', 'linear.', key)
    key = re.sub(r'^conv1\.', 'stem.conv1.', key)
    key = re.sub(r'^bn1\.', 'stem.conv1.7.' if deep else 'stem.conv1.norm.', key)
    key = re.sub(r'^layer(\d)\.', lambda match: f'res{int(match[1]) + 1}.', key)
    key = re.sub(r'^(res\d\.\d+\.)bn([13])\.', r'\1conv\2.norm.', key)
    if deep:
        key = key.replace('downsample.1.', 'shortcut.1.').replace(
            'downsample.2.', 'shortcut.1.norm.')
    else:
        key = key.replace('downsample.0.', 'shortcut.').replace('downsample.1.', 'shortcut.norm.')
    key = re.sub(r'conv2\.key_embed\.1\.', 'conv2.key_embed.0.norm.', key)
    key = re.sub(r'conv2\.(embed|se)\.1\.', r'conv2.\1.0.norm.', key)
    return re.sub(r'conv2\.(embed|se)\.([34])\.',
                  lambda match: f'conv2.{match[1]}.{int(match[2]) - 1}.', key)


def _d2_backbone(state_dict, arch, frozen=True):
    """Rename a classification state dict; frozen norms of stem and res2 count no batches."""
    names = {key: 'backbone.bottom_up.' + _d2_backbone_name(key, arch.startswith('se'))
             for key in state_dict}
    assert len(set(names.values())) == len(names)
    return {names[key]: value for key, value in state_dict.items()
            if not (frozen and key.endswith('num_batches_tracked')
                    and re.match(r'backbone\.bottom_up\.(stem|res2)\.', names[key]))}


def _normed_conv(name, out_channels, in_channels, kernel):
    shapes = {f'{name}.weight': (out_channels, in_channels, kernel, kernel)}
    for entry in ('weight', 'bias', 'running_mean', 'running_var'):
        shapes[f'{name}.norm.{entry}'] = (out_channels, )
    return {**shapes, f'{name}.norm.num_batches_tracked': ()}


def _layer(name, *shape):
    out_channels = shape[1] if 'deconv' in name else shape[0]
    return {f'{name}.weight': shape, f'{name}.bias': (out_channels, )}


def _d2_head_shapes(detector):
    shapes = {}
    for level, channels in zip(range(2, 6), (256, 512, 1024, 2048)):
        shapes.update(_normed_conv(f'backbone.fpn_lateral{level}', 256, channels, 1))
        shapes.update(_normed_conv(f'backbone.fpn_output{level}', 256, 256, 3))
    rpn = 'proposal_generator.rpn_head'
    shapes.update({**_layer(f'{rpn}.conv', 256, 256, 3, 3),
                   **_layer(f'{rpn}.objectness_logits', 3, 256, 1, 1),
                   **_layer(f'{rpn}.anchor_deltas', 12, 256, 1, 1)})
    cascade = detector.startswith('cascade')
    for stage in ('0.', '1.', '2.') if cascade else ('', ):
        for i in range(1, 5):
            shapes.update(_normed_conv(f'roi_heads.box_head.{stage}conv{i}', 256, 256, 3))
        shapes.update({
            **_layer(f'roi_heads.box_head.{stage}fc1', 1024, 256 * 7 * 7),
            **_layer(f'roi_heads.box_predictor.{stage}cls_score', 81, 1024),
            **_layer(f'roi_heads.box_predictor.{stage}bbox_pred', 4 if cascade else 320, 1024)})
    if 'mask' in detector:
        for i in range(1, 5):
            shapes.update(_normed_conv(f'roi_heads.mask_head.mask_fcn{i}', 256, 256, 3))
        shapes.update({**_layer('roi_heads.mask_head.deconv', 256, 256, 2, 2),
                       **_layer('roi_heads.mask_head.predictor', 80, 256, 1, 1)})
    return shapes


def _numbered(shapes, start=0):
    """Tensors that tell each other apart: the number of the entry, without memory of its own."""
    return {key: torch.tensor(float(start + i)).expand(shape)
            for i, (key, shape) in enumerate(shapes.items())}


def _d2_detector(arch, detector):
    backbone = {key: tuple(shape) for key, shape, _ in read_keys(FIXTURES[arch])
                if not key.startswith('fc.')}
    shapes = {**_d2_backbone(backbone, arch), **_d2_head_shapes(detector)}
    return _numbered(shapes)


def _config(repo_root, detector, arch):
    name = arch.replace('-', '_')
    return Config.fromfile(repo_root / f'configs/{detector}/{name}_fpn_1x_coco.py')


@pytest.mark.parametrize('arch', ENTRIES)
def test_documented_names_have_the_documented_number(arch):
    backbone = {key: () for key, _, _ in read_keys(FIXTURES[arch]) if not key.startswith('fc.')}
    assert len(_d2_backbone(backbone, arch)) == ENTRIES[arch]


# Names of backbones and heads do not depend on each other.
@pytest.mark.parametrize(('arch', 'detector'), [
    *((arch, 'cascade_mask_rcnn') for arch in FIXTURES),
    *(('cotnet-50', detector) for detector in DETECTORS if detector != 'cascade_mask_rcnn')])
def test_a_detectron2_detector_fills_ours_completely(repo_root, arch, detector):
    official = _d2_detector(arch, detector)
    ours = convert({'model': official, 'iteration': 89999})
    model = build_empty(_config(repo_root, detector, arch))
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in model.state_dict().items()}
    # Every value is used once.
    counters = {key for key in ours if re.match(r'backbone\.(conv1|bn1|layer1)\.', key)
                and key.endswith('num_batches_tracked')}
    used = [int(value.flatten()[0]) for key, value in ours.items() if key not in counters]
    assert sorted(used) == list(range(len(official)))
    assert all(ours[key] == 0 for key in counters)
    back = convert_back(ours, D2)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)


@pytest.mark.parametrize('arch', ['cotnet-50', 'cotnext-50', 'se-cotnetd-50'])
def test_backbone_out_of_detectron2_equals_the_official_model(arch):
    """Out of every layout of a file come the same weights, and these compute the same."""
    fixture = Fixture(f'{FIXTURES[arch]}__s1__224x224')
    model, loaded = CoTNet(arch), {}
    for layout in ('released', 'detector', 'bare'):
        official = _d2_backbone(fixture.state_dict, arch, frozen=layout == 'detector')
        state_dict = {
            'released': official,
            'detector': {**{key: value for key, value in official.items()
                            if '.linear.' not in key},
                         **_numbered(_d2_head_shapes('mask_rcnn'))},
            'bare': {key[len('backbone.bottom_up.'):]: value for key, value in official.items()},
        }[layout]
        assert detect_source(state_dict) == D2
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        load_backbone(model, {'model': state_dict})
        loaded[layout] = {key: value.clone() for key, value in model.state_dict().items()
                          if 'num_batches' not in key}
    for weights in loaded.values():
        assert all(torch.equal(value, loaded['released'][key]) for key, value in weights.items())
    with torch.no_grad():
        out = model.double().eval()(fixture.model_input().double())[-1]
    head = {name: fixture.state_dict[f'fc.{name}'].double() for name in ('weight', 'bias')}
    logits = nn.functional.linear(out.mean((2, 3)), **head)
    assert fixture.relative_error('logits', logits) <= 1e-6


def test_a_released_backbone_converts_there_and_back():
    official = _d2_backbone(Fixture('cotnet50__s1__224x224').state_dict, 'cotnet-50', frozen=False)
    ours = convert(official, D2)
    assert ours.keys() == Fixture('cotnet50__s1__224x224').state_dict.keys()
    assert list(convert_back(ours, D2)) == list(official)


@pytest.mark.parametrize('arch', ['cotnet-50', 'se-cotnetd-152'])
def test_classification_files(arch):
    name = {**FIXTURES, 'se-cotnetd-152': 'se_cotnetd_152'}[arch]
    official = _numbered({key: shape for key, shape, _ in read_keys(name)})
    wrapped = {'state_dict': {f'module.{key}': value for key, value in official.items()},
               'epoch': 349, 'arch': name}
    ours = convert(wrapped)
    assert detect_source(official) == 'cotnet'
    assert list(ours) == list(official) and list(convert_back(ours, 'cotnet')) == list(official)
    for layout in (wrapped, {f'backbone.{key}': value for key, value in official.items()}):
        model = CoTNet(arch)
        load_backbone(model, layout)
        assert all(torch.equal(value, official[key].to(value.dtype))
                   for key, value in model.state_dict().items())


def test_files_of_the_official_training(tmp_path, monkeypatch):
    """They hold a config of yacs, which need not be installed, and averaged weights."""
    module = types.ModuleType('yacs.config')
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    module.CfgNode = type('CfgNode', (dict, ), {'__module__': 'yacs.config'})
    config = module.CfgNode(model=module.CfgNode(name='cotnet50', scale=[0.08, 1.0]))
    config.__dict__['__immutable__'] = True
    plain = {key: torch.zeros(shape).to(getattr(torch, dtype))
             for key, shape, dtype in read_keys('cotnet50')}
    averaged = {key: torch.ones_like(value) for key, value in plain.items()}
    torch.save({'epoch': 350, 'arch': config['model'], 'args': config, 'state_dict': plain,
                'state_dict_ema': averaged, 'version': 2}, tmp_path / 'last.pth.tar')
    for name in ('yacs', 'yacs.config'):
        monkeypatch.delitem(sys.modules, name)
    model = CoTNet('cotnet-50')
    load_backbone(model, tmp_path / 'last.pth.tar')
    assert all((value == 1).all() for value in model.state_dict().values())


def test_a_resnet_is_no_cotnet():
    resnet = {'conv1.weight': 0, 'bn1.weight': 0, 'layer1.0.conv1.weight': 0,
              'layer1.0.conv2.weight': 0, 'fc.weight': 0}
    with pytest.raises(KeyMismatchError, match=r"'cotnet', but .* 1 of 5 keys: layer1.0.conv2.wei"):
        detect_source(resnet)


def test_what_does_not_map_is_named():
    official = _d2_detector('cotnet-50', 'cascade_mask_rcnn')
    extra = {'roi_heads.keypoint_head.conv_fcn1.weight': torch.zeros(1),
             'roi_heads.box_head.0.fc2.weight': torch.zeros(1),
             'backbone.bottom_up.res6.0.conv1.weight': torch.zeros(1)}
    with pytest.raises(KeyMismatchError) as error:
        convert({**official, **extra})
    assert all(key in str(error.value) for key in extra)
    assert f'{len(extra)} of {len(official) + len(extra)} keys' in str(error.value)
    ours = convert(official)
    # A cascade of MMDetection's has a mask head per stage.
    ours['roi_head.mask_head.1.conv_logits.bias'] = ours.pop('roi_head.mask_head.conv_logits.bias')
    with pytest.raises(KeyMismatchError, match='roi_head.mask_head.1.conv_logits.bias'):
        convert_back(ours, D2)


def test_stored_constants_are_compared_and_left_out():
    official = _d2_detector('se-cotnetd-50', 'faster_rcnn')
    pixels = {'pixel_mean': torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
              'pixel_std': torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)}
    # As detectron2 states them for area 32^2 (docstring of its generate_cell_anchors).
    anchors = {'proposal_generator.anchor_generator.cell_anchors.0': torch.tensor([
        [-22.6274, -11.3137, 22.6274, 11.3137], [-16., -16., 16., 16.],
        [-11.3137, -22.6274, 11.3137, 22.6274]])}
    assert convert({**official, **pixels, **anchors}).keys() == convert(official).keys()
    for key in (*pixels, *anchors):
        wrong = {**pixels, **anchors}
        wrong[key] = wrong[key].flip(0)
        with pytest.raises(KeyMismatchError, match=f'{key} of the checkpoint is'):
            convert({**official, **wrong})


def test_our_anchors_and_boxes_are_detectron2s(repo_root):
    """Check the order and alignment of anchors and the units of boxes, which names do not show."""
    for detector in DETECTORS:
        init_default_scope('mmdet')
        model = MODELS.build(_config(repo_root, detector, 'cotnet-50').model)
        generator = model.rpn_head.prior_generator
        assert [stride[0] for stride in generator.strides] == [4, 8, 16, 32, 64]
        for level, anchors in enumerate(generator.base_anchors):
            area, ratio = (32 * 2**level)**2, torch.tensor([0.5, 1., 2.])
            width, height = (area / ratio).sqrt(), (area * ratio).sqrt()
            torch.testing.assert_close(
                anchors, torch.stack((-width, -height, width, height), dim=1) / 2)
        heads = [model.roi_head.bbox_head]
        if detector.startswith('cascade'):
            heads = list(model.roi_head.bbox_head)
        for stage, head in enumerate(heads, start=1):
            weights = [10 * stage, 10 * stage, 5 * stage, 5 * stage]
            assert head.bbox_coder.stds == pytest.approx([1 / weight for weight in weights])
            assert head.bbox_coder.means == [0, 0, 0, 0]
            assert head.reg_class_agnostic == detector.startswith('cascade')
        assert model.rpn_head.bbox_coder.stds == [1, 1, 1, 1]
        extractors = [module for module in model.modules() if hasattr(module, 'roi_layers')]
        assert extractors and all(
            layer.aligned and layer.sampling_ratio == 0
            for extractor in extractors for layer in extractor.roi_layers)
        preprocessor = model.data_preprocessor
        assert preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
        assert preprocessor.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])
        assert preprocessor._channel_conversion  # BGR files to RGB


def test_numpy_arrays_become_tensors_and_plain_pickles_are_refused(tmp_path):
    weights = {'stem.conv1.weight': torch.ones(2).numpy()}
    torch.save({'model': weights}, tmp_path / 'numpy.pth')
    assert torch.equal(convert(load_file(tmp_path / 'numpy.pth'))['conv1.weight'], torch.ones(2))
    for protocol in (2, 4):
        path = tmp_path / 'plain.pkl'
        path.write_bytes(pickle.dumps({'model': weights, '__author__': 'd2'}, protocol))
        with pytest.raises(UnsafeCheckpointError, match='plain pickle') as error:
            load_file(path)
        # The command in the message does what it says.
        command = re.search(r'python -c "(.+)"', str(error.value))[1]
        command = command.replace('OLD.pkl', str(path))
        exec(command.replace('NEW.pth', str(tmp_path / 'new.pth')), {})
        assert torch.equal(load_file(tmp_path / 'new.pth')['stem.conv1.weight'], torch.ones(2))


@pytest.mark.parametrize('arch', [*FIXTURES, 'se-cotnetd-152'])
def test_where_the_released_weights_are(arch):
    name = f'{arch.replace("-", "_")}_in1k'
    message = missing_message(f'checkpoints/{name}.pth')
    assert 'https://drive.google.com/file/d/' in message and 'JDAI-CV/CoTNet' in message
