"""What README and docs name is there: files, links, modules and targets of the Makefile."""
import importlib.util
import re
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPO_ROOT.glob('*.md'), *(REPO_ROOT / 'docs').glob('*.md')])
# What was released and has gone since is history.
PAGES.remove(REPO_ROOT / 'CHANGELOG.md')
FOLDERS = 'benchmarks|configs|docs|mmcontainer|requirements|tests|tools'


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request):
    """Path and text of a page."""
    return request.param, request.param.read_text(encoding='utf-8')


def test_files_exist(page):
    """Paths from the root of the checkout; not those with a placeholder, a wildcard or a brace."""
    named = re.findall(rf'(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])(?![\w{{*<…-])', page[1])
    assert not [name for name in named if not (REPO_ROOT / name).exists()]


def test_links_lead_somewhere(page):
    path, text = page
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        file, _, anchor = target.partition('#')
        if '://' in target:
            continue
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r'^#+ +(.+)$', found.read_text(encoding='utf-8'), re.M)
            anchors = [re.sub(r'[^\w -]', '', h.lower()).strip().replace(' ', '-') for h in titles]
            assert anchor in anchors, target


def test_modules_and_targets_exist(page):
    modules = re.findall(r'python3? -m ((?:mmcontainer|benchmarks)[\w.]*\w)', page[1])
    assert all(importlib.util.find_spec(name) for name in modules), modules
    targets = re.findall(r'^\.PHONY: (.+)$', (REPO_ROOT / 'Makefile').read_text(), re.M)
    assert set(re.findall(r'(?<=`make )[\w-]+(?=[` ])', page[1])) <= {*' '.join(targets).split()}
