"""``mmcontainer explore``: the local web page, Gradio around an :class:`Explorer`."""
import os
import sys
import threading
from html import escape
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Optional

from ..api.detector import Detector
from ..cli.configs import load_config
from ..errors import UserError
from .drawings import draw_blocks, draw_photograph, draw_query, object_names
from .explorer import Explorer
from .local_only import LocalOnly
from .style import CSS

HOST = '127.0.0.1'
MAX_UPLOAD_MB = 64
# Of the extra `explore` in setup.py, which a test compares.
GRADIO = 'gradio==6.31.0'
_START = 'Drop a photograph to see what the detector finds in it.'


def explore(args) -> None:
    """Serve the page until Ctrl-C, as the command line says.

    Args:
        args (argparse.Namespace): Arguments of ``tools/explore.py``.

    Raises:
        UserError: No Gradio, a config or checkpoint that does not fit, or a port that is taken.
    """
    check_gradio()
    detector = Detector(load_config(args.config, args.cfg_options), args.checkpoint, args.device,
                        deploy=False)
    title = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
    with TemporaryDirectory(prefix='mmcontainer-explore-') as folder:
        # Read by Gradio when it is imported: uploads go where nothing of them is left behind, and
        # it looks whether its server is there, which no proxy knows.
        direct = os.environ.get('no_proxy') or os.environ.get('NO_PROXY')
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False',
                          no_proxy=f'{direct},{HOST}' if direct else HOST)
        page = build_page(Explorer(detector), title)
        try:
            print(f'{start(page, args.port)} is the page, for browsers on this machine. Ctrl-C '
                  'ends it.', flush=True)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def check_gradio() -> None:
    """Raise a UserError with the command that installs Gradio, where it is missing."""
    if find_spec('gradio') is None:
        raise UserError('The page needs Gradio, which is not installed: '
                        f"`{sys.executable} -m pip install '{GRADIO}'` (docs/explore.md says what "
                        'that changes).')


def build_page(explorer: Explorer, title: str):
    """Build the page.

    Args:
        explorer (Explorer): What it shows.
        title (str): Names of config and checkpoint.

    Returns:
        gradio.Blocks: Not served yet.
    """
    import gradio as gr
    actions = Actions(explorer, gr.update)
    # Pictures are deleted after an hour, and looked for every ten minutes.
    with gr.Blocks(title='mmcontainer explore', analytics_enabled=False, fill_width=True,
                   delete_cache=(600, 3600)) as page:
        session = gr.State({})
        gr.HTML(f'<h1>Look inside a detector</h1><p>{escape(title)}</p>', elem_id='mc-head')
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label='Photograph', type='filepath', elem_id='mc-file', height=150)
                score = gr.Slider(0, 1, 0.3, step=0.01, label='Least score', elem_id='mc-score',
                                  info='Leaves out objects with a lower one; the detector does '
                                  'not run again.')
                chosen = gr.Dropdown([], label='Object', elem_id='mc-object', interactive=True,
                                     visible=explorer.has_queries,
                                     info='Whose query is shown below.')
                message = gr.HTML(_message(_START), elem_id='mc-message')
            with gr.Column(scale=2, min_width=400):
                picture = gr.Image(
                    label='Click a point to see what it collects', interactive=False,
                    format='jpeg', buttons=['download', 'fullscreen'], elem_id='mc-picture')
        with gr.Tab('Backbone: what the point collects in every block'):
            blocks = gr.HTML(elem_id='mc-blocks')
        with gr.Tab('Decoder: where the query of an object looks', visible=explorer.has_queries):
            query = gr.HTML(elem_id='mc-query')

        # One after the other: the model and Matplotlib are not made for several threads.
        common = dict(concurrency_limit=1, concurrency_id='detector', api_visibility='private')
        everything = [session, picture, chosen, message, blocks, query]
        file.upload(actions.open, [file, score], everything, **common)
        file.clear(actions.clear, None, everything, **common)
        score.change(actions.move_score, [session, score], [picture, chosen, message],
                     trigger_mode='always_last', show_progress='hidden', **common)

        def click(session: dict, score: float, event: gr.SelectData):
            return actions.click(session, score, event.index)

        picture.select(click, [session, score],
                       [session, picture, chosen, message, blocks, query],
                       show_progress_on=[blocks, query], **common)
        chosen.input(actions.choose, [session, chosen], [query, message], **common)
    return page


def _message(text: str, kind: str = 'good') -> str:
    return f'<p class="mc-{kind}" role="status">{escape(text)}</p>'


class Actions:
    """What happens when something is dropped, moved or clicked.

    A session is ``dict(key, size, place)``: number of the photograph, width and height of its
    picture, and the place that was clicked, in pixels of the photograph.

    Args:
        explorer (Explorer): What the page shows.
        update (Callable): Gradio's ``update``.
    """

    def __init__(self, explorer: Explorer, update: Callable):
        self.explorer, self.update = explorer, update

    def clear(self):
        """Start anew: values of session, picture, list, message, blocks and query."""
        return {}, None, self.update(choices=[], value=None), _message(_START), '', ''

    def open(self, path: str, score: float):
        """Show a new photograph; the same values as :meth:`clear`."""
        path = Path(path)
        try:
            key = self.explorer.open(path, path.name)
        except UserError as error:
            return *self.clear()[:3], _message(str(error), 'bad'), '', ''
        picture = draw_photograph(self.explorer[key], score)
        session = dict(key=key, size=picture.shape[1::-1], place=None)
        return (session, picture, self._names(key, score), self._count(key, score),
                '<p class="mc-note">Click a point of the photograph.</p>',
                draw_query(self.explorer[key], None) if self.explorer.has_queries else '')

    def move_score(self, session: dict, score: float):
        """Draw anew with another least score: values of picture, list and message."""
        if not session:
            return (self.update(), ) * 3
        try:
            picture = draw_photograph(self.explorer[session['key']], score, session['place'])
        except UserError as error:
            return self.update(), self.update(), _message(str(error), 'bad')
        return (picture, self._names(session['key'], score, keep=True),
                self._count(session['key'], score))

    def click(self, session: dict, score: float, index: Any):
        """Show what is there at (x, y) of the picture; the same values as :meth:`clear`."""
        if not session:
            return (self.update(), ) * 6
        try:
            photograph = self.explorer[session['key']]
        except UserError as error:
            return *((self.update(), ) * 3), _message(str(error), 'bad'), *((self.update(), ) * 2)
        whole = photograph.found.width, photograph.found.height
        place = tuple((value + 0.5) * size / drawn
                      for value, size, drawn in zip(index, whole, session['size']))
        number = photograph.object_at(place, score) if self.explorer.has_queries else None
        return (dict(session, place=place), draw_photograph(photograph, score, place),
                self._names(session['key'], score, number),
                _message(f'Point x = {place[0]:.0f}, y = {place[1]:.0f} of {whole[0]} x {whole[1]} '
                         'pixels: below, what it collects in every block.'),
                draw_blocks(photograph, place),
                draw_query(photograph, number) if self.explorer.has_queries else '')

    def choose(self, session: dict, number: Optional[int]):
        """Show the query of an object: values of query and message."""
        if not session:
            return self.update(), self.update()
        try:
            return draw_query(self.explorer[session['key']], number), self.update()
        except UserError as error:
            return self.update(), _message(str(error), 'bad')

    def _names(self, key: int, score: float, number: Optional[int] = None, keep: bool = False):
        choices = dict(choices=object_names(self.explorer[key], score))
        return self.update(**choices) if keep else self.update(**choices, value=number)

    def _count(self, key: int, score: float) -> str:
        photograph = self.explorer[key]
        shown = len(photograph.shown(score))
        return _message(f'{shown} object{"" if shown == 1 else "s"} with a score of {score:.2f} or '
                        f'more, of {len(photograph.found)} that the detector gave. Click the '
                        'picture to look inside.')


def start(page, port: Optional[int] = None) -> str:
    """Serve a page in other threads, for browsers on this machine, and no other site in them.

    Args:
        page (gradio.Blocks): The page.
        port (int, optional): Without it the first free one from 7860.

    Returns:
        str: Its address.

    Raises:
        UserError: The port is taken.
    """
    import gradio as gr
    from starlette.middleware import Middleware
    if port is not None and not 0 < port < 2**16:
        raise UserError(f'--port must be a number from 1 to 65535, got {port}.')
    try:
        page.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, max_file_size=MAX_UPLOAD_MB * 2**20, ssr_mode=False,
            mcp_server=False, pwa=False, enable_monitoring=False, run_history=False,
            footer_links=[], css=CSS, app_kwargs=dict(middleware=[Middleware(LocalOnly)]),
            # Fonts of the system, no others.
            theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']))
    except OSError as error:
        where = f'The port {port} is' if port else 'All ports from 7860 to 7959 are'
        raise UserError(f'{where} taken by another program, or not allowed: name another one, '
                        f'--port 8000 for example ({error}).') from error
    return f'http://{HOST}:{page.server_port}'
