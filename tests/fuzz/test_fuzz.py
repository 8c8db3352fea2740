"""A sample of the fuzz, and that it would notice a check that is gone."""
import pytest

from fuzz import DOMAINS, annotations, checkpoints
from fuzz.harness import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('domain, cases', [
    ('checkpoints', 150), ('annotations', 50), ('pictures', 100), ('options', 25)])
def test_nothing_comes_out_badly(domain, cases):
    reports = []
    figures = run({domain: DOMAINS[domain]}, cases, seed=0, report=reports.append)[domain]
    assert not figures.bad, '\n'.join(reports)
    # Neither everything nor nothing is refused, so both kinds of cases were among them.
    assert min(figures.outcomes['refused'], figures.outcomes['accepted']) > cases // 12


class Bad(Exception):
    pass


def until_bad(domain, generate, cases):
    """Run cases until one comes out badly."""
    def report(text):
        raise Bad(text)

    run({domain: generate}, cases, seed=0, report=report)


@pytest.mark.parametrize('check', ['tensors.check_numbers', 'integrity._check_archive'])
def test_a_missing_check_of_checkpoints_is_noticed(monkeypatch, check):
    monkeypatch.setattr(f'mmcontainer.checkpoints.{check}', lambda *_: None)
    with pytest.raises(Bad):
        until_bad('checkpoints', checkpoints.generate, 150)


def test_a_missing_check_of_annotations_is_noticed(monkeypatch):
    monkeypatch.setattr(annotations, 'check_annotations', lambda *_: None)
    with pytest.raises(Bad):
        until_bad('annotations', annotations.generate, 6)
