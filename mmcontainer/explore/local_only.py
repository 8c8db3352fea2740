"""What keeps the web sites of the same browser away from the page."""
from urllib.parse import urlsplit

# By these names a browser of this machine, or one behind `ssh -L`, reaches the page.
NAMES = ('127.0.0.1', 'localhost')


class LocalOnly:
    """ASGI middleware that answers 403 to what does not come from the page itself.

    A server of 127.0.0.1 is out of reach of other machines, but not of what they make a browser
    send: any site may post to it, which the header ``Origin`` tells, and a site whose name its
    owner lets point to 127.0.0.1 may read as well, which ``Host`` tells. Ports do not matter.

    Args:
        app (Callable): The application behind it.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Answer a request, or let the application do it."""
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse
        answer = self.app
        if scope['type'] in ('http', 'websocket'):
            headers = Headers(scope=scope)
            hosts = [f'//{headers.get("host", "")}', *headers.getlist('origin')]
            if not all(_host(address) in NAMES for address in hosts):
                answer = PlainTextResponse(
                    f'This page is for browsers at {" or ".join(NAMES)}, and no other site '
                    'may use it.\n', status_code=403)
        await answer(scope, receive, send)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ''  # 'null', for a page that hides where it is from
    except ValueError:
        return ''
