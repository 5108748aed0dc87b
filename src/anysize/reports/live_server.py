"""The server of the live page: bokeh's, on this machine alone unless another address is asked for.

Whoever reaches the page sees the runs: there is no password. A browser is answered where it asks for this machine by a
name or number of its own, so that a page from elsewhere, which the same browser shows, cannot read the runs through it.
All scripts and styles come from this server.
"""

import errno
import ipaddress
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.static_handler import StaticHandler
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import ErrorHandler

from anysize.registry import UserError
from anysize.reports.live import Watched
from anysize.reports.live_page import LivePage

HOST, PORT = "127.0.0.1", 5106
_LOCAL = ("localhost", "127.0.0.1", "::1")


class LiveServer:
    """Serves the live page at `url` until `stop`; `run` blocks until the loop is stopped or interrupted.

    Args:
        watched: the runs.
        host: the address to listen at; 127.0.0.1 is reached from this machine alone.
        port: 0: any that is free.

    Raises:
        UserError: the port is taken, or it or the address cannot be used.
    """

    def __init__(self, watched: Watched, host: str = HOST, port: int = PORT) -> None:
        if not 0 <= port < 1 << 16:
            raise UserError(f"port is {port}; expected a number from 0 to 65,535")
        try:
            listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            listening.setblocking(False)
        except (OSError, UnicodeError) as error:
            raise UserError(_why(host, port, error)) from None
        address, self.port = listening.getsockname()[:2]
        self.local = ipaddress.ip_address(address).is_loopback
        shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"
        self.loop = IOLoop()
        logging.getLogger("bokeh").setLevel(logging.ERROR)  # what a user need not know of each browser
        logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
        application = _Application(
            Application(FunctionHandler(lambda document: _show(document, watched))),
            own=_own_names(host, self.local),
            extra_websocket_origins=["*"],  # `_Application` has looked at the origin before
        )
        self._http = HTTPServer(application)
        self._http.add_socket(listening)
        self._server = BaseServer(self.loop, application, self._http)
        self._server.start()

    def run(self) -> None:
        """Serve, until the loop is stopped."""
        self.loop.start()

    def stop(self) -> None:
        """Close the connections and the port."""
        self._server.stop(wait=False)
        self.loop.run_sync(self._http.close_all_connections)
        self.loop.close()


class _Application(BokehTornado):  # type: ignore[misc]
    """Bokeh's, which answers requests to names of its own, and from pages of its own, alone."""

    def __init__(self, application: Application, *, own: frozenset[str], **options: Any) -> None:
        self._own = own
        super().__init__({"/": application}, **options)

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        return Resources(mode="server", root_url="/", path_versioner=StaticHandler.append_version)  # whatever is set

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        host, origin = request.host, request.headers.get("Origin", "")
        if not self._is_own(host) or (origin and urlsplit(origin).netloc.lower() != host.lower()):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **options)

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._own or ("" in self._own and _is_address(name))


def _show(document: Any, watched: Watched) -> None:
    LivePage(document, watched)


def _own_names(host: str, local: bool) -> frozenset[str]:
    """The names by which browsers may ask; "" stands for any number, which no other site can have as its name."""
    if local:
        return frozenset(_LOCAL)
    return frozenset((*_LOCAL, host.lower(), socket.gethostname().lower(), socket.getfqdn().lower(), ""))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _why(host: str, port: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; give another one with --port, or 0 for any"
    if number == errno.EACCES:
        return f"port {port} may not be used by this user; give one above 1023 with --port, or 0 for any"
    said = getattr(error, "strerror", None) or str(error)
    return f"cannot listen at {host}: {said}; give an address of this machine with --host, such as {HOST}"
