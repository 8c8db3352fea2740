"""Numbers that the documentation states are those of the code and of the papers."""
import re

import pytest
import torch

from mmcontainer.analysis.flops import count_flops
from mmcontainer.backbones import Container, ContainerPAM
from mmcontainer.paper import load_tables

NAMES = {'light': 'container_light_released', 'light-paper': 'container_light', 'base': 'container',
         'pam': 'container_pam'}


def test_table_of_the_container_family(repo_root):
    text = (repo_root / 'docs' / 'container_family.md').read_text(encoding='utf-8')
    rows = re.findall(
        r'^\| `([\w-]+)`[^|]*\|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\| ([\d.]+) M, ([\d.]+) G \|',
        text, re.M)
    assert {row[0] for row in rows} == {*Container.arch_settings, 'pam'}
    for arch, top1, stated, parameters, flops in rows:
        with torch.device('meta'):
            model = (ContainerPAM if arch == 'pam' else Container)(arch, final_norm=True)
        count = count_flops(model, (1, 3, 224, 224))
        found = count.parameters + (model.arch['embed_dims'][-1] + 1) * 1000
        assert float(parameters) == pytest.approx(found / 1e6, abs=0.051), arch
        assert float(flops) == pytest.approx(count.flops / 1e9, abs=0.0051), arch
        published = load_tables()['classification'][NAMES.get(arch, arch.replace('-', '_'))]
        assert float(top1) == pytest.approx(published['top1'], abs=0.05)
        numbers = re.findall(r'[\d.]+(?= [MG])', stated)
        assert [float(n) for n in numbers] == [
            published[key] for key in ('params', 'flops') if key in published], arch
