"""The page in a real browser: drop a photograph, move the slider, click, and drop what is none."""
import json
import shutil

import pytest
from PIL import Image

pytest.importorskip('mmcv.ops')
pytest.importorskip('gradio', reason='needs Gradio and selenium: make test-explore')
pytest.importorskip('selenium', reason='needs Gradio and selenium: make test-explore')
BROWSER, DRIVER = (shutil.which(name) for name in ('chromium', 'chromedriver'))
if not (BROWSER and DRIVER):
    pytest.skip('needs a browser: apt-get install chromium chromium-driver',
                allow_module_level=True)

from mmengine.registry import init_default_scope  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402
from small_detectors import build_model, make_config, scene  # noqa: E402

from mmcontainer import Detector  # noqa: E402
from mmcontainer.explore.explorer import Explorer  # noqa: E402
from mmcontainer.explore.page import build_page, start  # noqa: E402

SECONDS = 60


class Visitor:
    """What a person does with the page, and sees of it."""

    def __init__(self, browser):
        self.browser = browser

    def find(self, css):
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def wait(self, what, condition):
        """Wait until a condition is true, and return its value."""
        def look(_):
            return condition()
        return WebDriverWait(self.browser, SECONDS, ignored_exceptions=[Exception]).until(
            look, f'{what}; the page says: {self.message}')

    @property
    def message(self):
        return ' '.join(element.text for element in self.find('#mc-message'))

    @property
    def picture(self):
        """Address of the picture; another one for every picture."""
        image, = self.find('#mc-picture img')
        return image.get_attribute('src')

    def maps(self, tab='mc-blocks'):
        """Addresses of the maps that are shown."""
        return [image.get_attribute('src') for image in self.find(f'#{tab} img.mc-cells')]

    def drop(self, path):
        for button in self.find('#mc-file button[aria-label="Clear"]'):
            button.click()
        upload = self.wait('a place to drop files', lambda: self.find(
            '#mc-file input[type=file]')[0])
        upload.send_keys(str(path))

    def click(self, x, y):
        """Click the picture at these parts of its width and height."""
        def is_drawn():
            image, = self.find('#mc-picture img')
            return self.browser.execute_script(
                'return arguments[0].complete && arguments[0].naturalWidth > 0', image)

        self.wait('the whole picture', is_drawn)  # before, a click has no place in it
        image, = self.find('#mc-picture img')
        # From the middle of the element.
        ActionChains(self.browser).move_to_element_with_offset(
            image, round((x - 0.5) * image.size['width']),
            round((y - 0.5) * image.size['height'])).click().perform()

    def hosts(self):
        """All that the page has asked for anything, from the log of the network."""
        found = set()
        for entry in self.browser.get_log('performance'):
            message = json.loads(entry['message'])['message']
            if message['method'] == 'Network.requestWillBeSent':
                scheme, _, rest = message['params']['request']['url'].partition('://')
                if scheme.startswith('http') or scheme.startswith('ws'):
                    found.add(rest.split('/')[0])
        return found


@pytest.fixture
def visitor(tmp_path):
    """A visitor with an empty browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in ('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
                   'disable-background-networking', 'disable-component-update', 'disable-sync',
                   'disable-dev-shm-usage', f'user-data-dir={tmp_path / "browser"}',
                   'window-size=1300,1000'):
        options.add_argument(f'--{option}')
    options.set_capability('goog:loggingPrefs', dict(performance='ALL'))
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Visitor(browser)
    browser.quit()


@pytest.fixture
def serve(tmp_path, monkeypatch, repo_root):
    """Return a function: serves a small detector, and returns the address and its explorer."""
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'gradio'))
    served = []

    def run(name):
        cfg = make_config(repo_root, name)
        explorer = Explorer(Detector.from_model(build_model(cfg), cfg))
        init_default_scope('mmdet')
        served.append(build_page(explorer, f'{name}, checkpoint'))
        return start(served[-1]), explorer

    yield run
    for page in served:
        page.close(verbose=False)


def test_photograph_slider_and_click(serve, visitor, photo, tmp_path, monkeypatch):
    address, explorer = serve('retinanet')
    runs, model = [], explorer.detector.model
    monkeypatch.setattr(model, 'extract_feat', lambda x, run=model.extract_feat: (
        runs.append(1), run(x))[1])
    visitor.browser.get(address)
    visitor.wait('the start', lambda: 'Drop a photograph' in visitor.message)
    assert 'retinanet, checkpoint' in visitor.find('#mc-head')[0].text
    assert not any(element.is_displayed() for element in visitor.find('#mc-object'))

    visitor.drop(photo)
    visitor.wait('objects', lambda: 'objects with a score of 0.30' in visitor.message)
    first = visitor.wait('a picture', lambda: visitor.picture)

    field, = visitor.find('#mc-score input[type=number]')
    field.send_keys(Keys.CONTROL, 'a')
    field.send_keys('0.99', Keys.TAB)
    visitor.wait('the new score', lambda: 'with a score of 0.99' in visitor.message)
    fewer = visitor.wait('another picture', lambda: visitor.picture not in (first, None)
                         and visitor.picture)

    visitor.click(0.2, 0.3)
    visitor.wait('maps', lambda: len(visitor.maps()) == 3 + 2 * 3)
    one = visitor.maps()
    visitor.wait('a mark', lambda: visitor.picture not in (first, fewer))
    x, y = map(int, visitor.message.replace(',', '').split()[3:7:3])
    assert abs(x - 0.2 * 150) <= 1 and abs(y - 0.3 * 90) <= 1
    visitor.click(0.8, 0.75)
    visitor.wait('other maps', lambda: len(visitor.maps()) == len(one)
                 and visitor.maps() != one)
    assert all(map(str.__ne__, visitor.maps(), one))
    assert runs == [1]
    assert visitor.find('#mc-blocks .mc-shares')[0].text.startswith('α = 0.')

    notes = tmp_path / 'notes.jpg'
    notes.write_text('no picture at all')
    visitor.drop(notes)
    visitor.wait('a message', lambda: 'notes.jpg: cannot be read as an image' in visitor.message)
    assert visitor.find('#mc-message .mc-bad') and not visitor.maps()
    # Neither fonts nor scripts nor statistics: all is from here.
    assert visitor.hosts() == {address.removeprefix('http://')}


def test_query_of_an_object(serve, visitor, tmp_path):
    address, explorer = serve('smca')
    path = tmp_path / 'tall.png'
    Image.fromarray(scene(140, 60)).save(path)
    visitor.browser.get(address)
    visitor.drop(path)
    visitor.wait('objects', lambda: 'objects with a score of 0.30' in visitor.message)
    # The middle of the best object.
    x1, y1, x2, y2 = explorer[1].found.detections[0].bbox
    visitor.click((x1 + x2) / 2 / 60, (y1 + y2) / 2 / 140)
    visitor.wait('maps', visitor.maps)
    tab = next(tab for tab in visitor.find('button[role=tab]') if 'Decoder' in tab.text)
    tab.click()
    maps = visitor.wait('the maps of its query', lambda: visitor.maps('mc-query'))
    assert len(maps) == 2 * 3 and len(set(maps)) > 3
    assert visitor.find('#mc-query h3')[0].text.startswith('Query ')
    # The list offers the same objects.
    visitor.find('#mc-object input')[0].click()
    choices = visitor.wait('the list', lambda: visitor.find('ul[role=listbox] li'))
    shown = visitor.find('#mc-query h3')[0].text
    choices[-1].click()
    visitor.wait('another query', lambda: visitor.find('#mc-query h3')[0].text != shown)
