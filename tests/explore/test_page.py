"""The page itself: what it does with what it is given, its server, and its command."""
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmcv.ops')

from mmengine.registry import init_default_scope  # noqa: E402
from small_detectors import build_model, make_config  # noqa: E402

from mmcontainer import Detector  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.explore import page as pages  # noqa: E402
from mmcontainer.explore.explorer import Explorer  # noqa: E402
from mmcontainer.explore.page import Actions, build_page, explore, start  # noqa: E402

SAME = dict  # what Gradio's update without arguments is here: nothing changes


@pytest.fixture(scope='module')
def models(repo_root):
    built = {}
    for name in ('retinanet', 'smca'):
        cfg = make_config(repo_root, name)
        built[name] = cfg, build_model(cfg)
    return built


@pytest.fixture(params=['retinanet', 'smca'])
def actions(request, models):
    init_default_scope('mmdet')
    cfg, model = models[request.param]
    return Actions(Explorer(Detector.from_model(model, cfg)), dict)


def test_open_move_click_choose(actions, photo):
    session, picture, names, message, blocks, query = actions.open(str(photo), 1.)
    photograph = actions.explorer[session['key']]
    has_queries = bool(photograph.queries)
    assert session['size'] == picture.shape[1::-1] and 'Click a point' in blocks
    assert '0 objects with a score of 1.00' in message
    assert names == dict(choices=[], value=None)

    moved, names, message = actions.move_score(session, 0.)
    assert len(names['choices']) == len(photograph.found) and 'value' not in names
    assert moved.shape == picture.shape and (moved != picture).any()
    assert f'{len(photograph.found)} objects with a score of 0.00' in message

    width, height = session['size']
    best = photograph.found.detections[0].bbox
    index = [round((best[0] + best[2]) / 2 * width / 150), round((best[1] + best[3]) / 2 * height
                                                                / 90)]
    clicked, marked, names, message, blocks, query = actions.click(session, 0., index)
    assert clicked['place'] == pytest.approx(((best[0] + best[2]) / 2, (best[1] + best[3]) / 2),
                                             abs=0.2)
    assert (marked != moved).any() and 'mc-cells' in blocks
    assert ('mc-cells' in query) == has_queries == (names['value'] is not None)
    other = actions.click(session, 0., [index[0] // 3, index[1] // 3])
    assert other[4] != blocks
    if has_queries:
        chosen, message = actions.choose(session, names['value'])
        assert chosen == query and message == SAME()


def test_nothing_happens_before_a_photograph(actions):
    assert actions.move_score({}, 0.5) == (SAME(), ) * 3
    assert actions.click({}, 0.5, [3, 4]) == (SAME(), ) * 6
    assert actions.choose({}, None) == (SAME(), ) * 2
    assert actions.clear()[0] == {} and 'Drop a photograph' in actions.clear()[3]


def test_mistakes_are_shown_in_the_page(actions, photo, tmp_path):
    path = tmp_path / 'a <b>.txt'
    path.write_text('no picture')
    session, picture, _, message, blocks, query = actions.open(str(path), 0.5)
    assert (session, picture, blocks, query) == ({}, None, '', '')
    assert 'mc-bad' in message and 'a &lt;b&gt;.txt: cannot be read as an image' in message
    old = actions.open(str(photo), 0.5)[0]
    for _ in range(2):
        actions.open(str(photo), 0.5)
    for result in (actions.move_score(old, 0.4)[2], actions.click(old, 0.4, [1, 1])[3],
                   actions.choose(old, 0)[1]):
        assert 'mc-bad' in result and 'drop it here again' in result


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, repo_root):
    monkeypatch.setattr(pages, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='The page needs Gradio') as caught:
        explore(SimpleNamespace())  # before anything is read
    assert f"-m pip install '{pages.GRADIO}'" in str(caught.value)
    assert f"'explore': ['{pages.GRADIO}']" in (repo_root / 'setup.py').read_text()
    assert pages.GRADIO in (repo_root / 'requirements' / 'explore.txt').read_text().splitlines()


@pytest.fixture
def gradio(tmp_path, monkeypatch):
    """Gradio; tests without it are skipped."""
    monkeypatch.setenv('GRADIO_ANALYTICS_ENABLED', 'False')
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'gradio'))
    return pytest.importorskip('gradio', reason='needs Gradio: make test-explore')


@pytest.fixture
def page_address(gradio, models):
    """Address of a page that is served."""
    cfg, model = models['retinanet']
    page = build_page(Explorer(Detector.from_model(model, cfg)), 'CONFIG')
    try:
        yield start(page)
    finally:
        page.close(verbose=False)


def test_the_server_is_for_this_machine_and_asks_no_other(gradio, models, monkeypatch):
    asked, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, 'connect', lambda self, address: (
        asked.append(address), connect(self, address))[1])
    cfg, model = models['retinanet']
    page = build_page(Explorer(Detector.from_model(model, cfg)), 'CONFIG')
    try:
        address = start(page)
        assert address == f'http://127.0.0.1:{page.server_port}' and page.share_url is None
        assert asked and {place[0] for place in asked} == {'127.0.0.1'}
        # Any address of 127.0.0.0/8 is this machine's; only the one it is bound to answers.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            connect(other, ('127.0.0.2', page.server_port))
        with pytest.raises(UserError, match=f'The port {page.server_port} is taken'):
            start(build_page(Explorer(Detector.from_model(model, cfg)), 'X'), page.server_port)
        with pytest.raises(UserError, match='--port must be a number from 1 to 65535, got 70000'):
            start(page, 70000)
    finally:
        page.close(verbose=False)


EVIL = 'http://evil.example'


@pytest.mark.parametrize('headers, code', [
    ({}, 200), (dict(origin='http://127.0.0.1:7860'), 200), (dict(host='localhost:8000'), 200),
    (dict(host='LOCALHOST:8000', origin='http://localhost:8000'), 200),
    (dict(origin=EVIL), 403), (dict(origin='null'), 403), (dict(origin='http://['), 403),
    (dict(origin='http://localhost.evil.example'), 403), (dict(host='evil.example:7860'), 403),
    (dict(host='evil.example', origin=EVIL), 403)])
def test_other_sites_of_the_same_browser_are_refused(gradio, page_address, headers, code):
    import httpx
    config = httpx.get(f'{page_address}/config', headers=headers)
    upload = httpx.post(f'{page_address}/gradio_api/upload', headers=headers,
                        files={'files': ('a.jpg', b'any')})
    assert (config.status_code, upload.status_code) == (code, code)
    stored = list(Path(os.environ['GRADIO_TEMP_DIR']).rglob('a.jpg'))
    assert bool(stored) == (code == 200)
    if code == 403:
        assert 'This page is for browsers at 127.0.0.1 or localhost' in upload.text


@pytest.fixture
def one_megabyte(monkeypatch):
    """Pages that are served take no more."""
    monkeypatch.setattr(pages, 'MAX_UPLOAD_MB', 1)


def test_uploads_are_limited(one_megabyte, page_address):
    import httpx
    for size, code in ((2**20 - 1, 200), (2**20 + 1, 413)):
        answer = httpx.post(f'{page_address}/gradio_api/upload',
                            files={'files': ('a.jpg', bytes(size))})
        assert answer.status_code == code


@pytest.fixture(scope='module')
def files(tmp_path_factory, models):
    """Config and checkpoint of the small RetinaNet, as files."""
    folder = tmp_path_factory.mktemp('detector')
    cfg, model = models['retinanet']
    cfg.dump(folder / 'tiny.py')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)),
               folder / 'tiny.pth')
    return folder / 'tiny.py', folder / 'tiny.pth'


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(gradio, files, repo_root, tmp_path, unmeasured):
    """And leaves nothing behind."""
    process = subprocess.Popen(
        [sys.executable, str(repo_root / 'tools' / 'explore.py'), *map(str, files)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env={**unmeasured, 'TMPDIR': str(tmp_path), 'http_proxy': 'http://127.0.0.1:9'})
    try:
        line = next(line for line in process.stdout if line.startswith('http'))
        assert 'is the page' in line and 'Ctrl-C' in line
        assert list(tmp_path.glob('mmcontainer-explore-*'))
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.endswith('Interrupted.\n') and 'Traceback' not in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('wrong', ['missing.pth', 'other.pth'])
def test_a_checkpoint_that_does_not_fit(gradio, files, tmp_path, models, wrong):
    torch.save(dict(state_dict=models['smca'][1].state_dict()), tmp_path / 'other.pth')
    args = SimpleNamespace(config=str(files[0]), checkpoint=str(tmp_path / wrong), device='cpu',
                           port=None, cfg_options=None)
    with pytest.raises(UserError, match=str(Path(wrong).stem)):
        explore(args)
