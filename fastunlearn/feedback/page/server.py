"""The page's server: for one person on one machine, behind a token.

| request | gives |
|---|---|
| ``GET /?token=T`` | the token as a cookie, and the address without it |
| ``GET /`` | the page |
| ``GET /state``, ``GET /chart`` | where the labels stand; the histogram |
| ``GET /image/KEY/I.png`` | image I; KEY changes with the generator and the seed, so that browsers may keep it |
| ``POST /mark``, ``/turn``, ``/undo``, ``/order`` | `Labelling`'s methods; the state after them |

Everything needs the token: to read, as cookie; to change anything, as header `X-Token`, which no other site can send.
"""

import hmac
import ipaddress
import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from ...errors import FastUnlearnError
from ...evaluation.page.document import environment, script, stylesheet
from .histogram import histogram
from .labelling import FIRST, Labelling, StalePageError
from .pictures import Pictures
from .session import Order

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
WIDE, NARROW = 128, 96
"""About so many pixels is an image large, on a screen and on a phone."""

MOST_BYTES = 1000
"""Of a request's body; ours have some dozens."""


class Page:
    """The WSGI application.

    Args:
        labelling: the labels and where they are kept.
        token: without it nothing is answered.
        gan: what the generator is called, for the person.
        command: what the person may run next.
        host: the address that is listened at, by which the page is asked for besides the machine itself.
    """

    def __init__(self, labelling: Labelling, token: str, gan: str, command: str, host: str = LOOPBACK[0]):
        self.labelling, self.host, self._token = labelling, host, token
        self.pictures = Pictures(labelling.model, labelling.stream)
        self._want()
        self._key = f"{labelling.generator_sha256[:16]}-{labelling.session.seed}"
        self.side = max(labelling.model.image_shape[1:])
        self._html = environment(HERE).get_template("feedback.html")
        self._facts = {
            "gan": gan,
            "path": labelling.path,
            "command": command,
            "token": token,
            "key": self._key,
            "first": FIRST,
            "enlarged": tile(self.side, WIDE) > self.side,
        }
        self._routes = Map(
            [
                *(Rule(f"/{name}", methods=["GET"], endpoint=getattr(self, name)) for name in ("state", "chart")),
                *(
                    Rule(f"/{name}", methods=["POST"], endpoint=getattr(self, name))
                    for name in ("mark", "turn", "undo", "order")
                ),
                *(Rule(f"/{name}", methods=["GET"], endpoint=self.file) for name in FILES),
                Rule("/", methods=["GET"], endpoint=self.page),
                Rule("/image/<key>/<int:place>.png", methods=["GET"], endpoint=self.image),
            ],
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        request.max_content_length = MOST_BYTES
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = _text(error.code, error.description)
        except StalePageError as error:
            response = _json({"error": str(error), "state": self._state()}, 409)
        except FastUnlearnError as error:
            response = _json({"error": str(error), "state": self._state()}, 500)
        response.headers.extend({k: v for k, v in HEADERS.items() if k not in response.headers})
        response.headers.setdefault("Cache-Control", "no-store")
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        asked = request.headers.get("Host", "")
        if not known_host(asked, self.host):
            raise Forbidden(f"This page does not go by {asked!r:.80}: open the address as it was printed.")
        cookie = f"fastunlearn-{request.environ['SERVER_PORT']}"  # cookies are shared by the ports of a host
        if request.path == "/" and self._is_token(request.args.get("token")):
            response = redirect("/", 303)
            # Lax: with Strict a link in a terminal that is itself a web page would end at a refusal.
            response.set_cookie(cookie, self._token, httponly=True, samesite="Lax")
            return response
        given = request.cookies.get(cookie) if request.method in ("GET", "HEAD") else request.headers.get("X-Token")
        if not self._is_token(given):
            raise Forbidden("The token is missing or old: open the address that 'fastunlearn feedback' printed last.")
        endpoint, values = self._routes.bind_to_environ(request.environ).match()
        return endpoint(request, **values)

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def page(self, request: Request) -> Response:
        """The page itself."""
        return Response(self._html.render(**self._facts), mimetype="text/html")

    def file(self, request: Request) -> Response:
        """A style or a script."""
        make, mimetype = FILES[request.path[1:]]
        return Response(make(self), mimetype=mimetype)

    def image(self, request: Request, key: str, place: int) -> Response:
        """A picture that was shown."""
        if key != self._key or place not in self.labelling.session.shown:
            raise NotFound("There is no such image.")
        return Response(
            self.pictures.get(place),
            mimetype="image/png",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    def state(self, request: Request) -> Response:
        """Where the labels stand."""
        return _json(self._state())

    def chart(self, request: Request) -> Response:
        """The histogram, or None while too little is marked; the script asks for it after every change."""
        self._want()
        feedback = self.labelling.feedback()
        target = self.labelling.target(feedback)
        if target is None:
            return _json(None)
        shown = self.labelling.session.shown
        return _json({**histogram(feedback, target), "chosen": shown != tuple(range(len(shown)))})

    def mark(self, request: Request) -> Response:
        """Mark an image, or take its mark back."""
        body = _body(request, page=int, image=int, marked=bool)
        self.labelling.mark(**body)
        return _json(self._state())

    def turn(self, request: Request) -> Response:
        """Go on to the next page."""
        self.labelling.turn(**_body(request, page=int))
        return _json(self._state())

    def undo(self, request: Request) -> Response:
        """Take the last thing back."""
        self.labelling.undo(**_body(request, page=int))
        return _json(self._state())

    def order(self, request: Request) -> Response:
        """Choose the order of the next images."""
        (order,) = _body(request, order=str).values()
        if order not in get_args(Order):
            raise BadRequest(f"order must be one of {', '.join(get_args(Order))}")
        self.labelling.reorder(order)
        return _json(self._state())

    def _state(self) -> dict[str, Any]:
        session = self.labelling.session
        current = session.pages[-1]
        return {
            "page": len(session.pages) - 1,
            "images": current,
            "marked": [image for image in current if image in session.marked],
            "total": {"marked": len(session.marked), "seen": len(session.labelled)},
            "undo": bool(session.history),
            "order": session.order,
        }

    def _want(self) -> None:
        self.pictures.want(self.labelling.session.pages[-1], self.labelling.upcoming())


def _own_style(page: Page) -> str:
    """The style, with the size of an image: a whole multiple of its pixels, so that small ones stay sharp."""
    wide, narrow = tile(page.side, WIDE), tile(page.side, NARROW)
    sizes = f":root{{--tile:{wide}px}}@media (max-width:44rem){{:root{{--tile:{narrow}px}}}}\n"
    return stylesheet() + (HERE / "feedback.css").read_text(encoding="utf-8") + sizes


def tile(side: int, wanted: int) -> int:
    """How large an image of `side` pixels is drawn: the multiple nearest to `wanted`; larger ones are shrunk to 160."""
    return side * max(1, (wanted + side // 2) // side) if side <= 160 else 160


FILES: dict[str, tuple[Callable[[Page], str], str]] = {
    "feedback.css": (_own_style, "text/css"),
    "feedback.js": (lambda page: (HERE / "feedback.js").read_text(encoding="utf-8"), "text/javascript"),
    "page.js": (lambda page: script(), "text/javascript"),
    "icon.svg": (lambda page: (HERE / "icon.svg").read_text(encoding="utf-8"), "image/svg+xml"),
}


def known_host(header: str, host: str) -> bool:
    """Whether a request's Host is one that the page goes by.

    A foreign site whose name is made to resolve to this machine still names itself in it (DNS rebinding). The port is
    not looked at: a tunnel may lead to another one.

    Args:
        header: the Host header.
        host: the address that is listened at.
    """
    try:
        name = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if name in (*LOOPBACK, host.lower().strip("[]")):
        return True
    if not unspecified(host):
        return False
    try:
        ipaddress.ip_address(name or "")  # of whichever interface: an address cannot be made to resolve
    except ValueError:
        return name == socket.gethostname().lower()
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own, which no other one reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def unspecified(host: str) -> bool:
    """Whether a host means all interfaces."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == ""


def listen(page: Page, port: int = 0) -> BaseWSGIServer:
    """A server at the page's host; `serve_forever` answers until it is interrupted.

    Args:
        page: what answers.
        port: 0 takes a free one.

    Raises:
        FastUnlearnError: the port is taken, or the host is none of this machine's.
    """
    host = page.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as bound:
            return make_server(host, port, page, threaded=True, request_handler=Quiet, fd=bound.fileno())
    except OSError as error:
        raise FastUnlearnError(
            f"cannot listen on {page.host}:{port} ({error.strerror or error}); give another --host or --port"
        ) from error


def address(server: BaseWSGIServer, page: Page, token: str) -> str:
    """What to open in a browser."""
    host = socket.gethostname() if unspecified(page.host) else page.host.strip("[]")
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/?token={token}"


class Quiet(WSGIRequestHandler):
    """Says nothing of requests that were answered: the first has the token in it."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def _text(status: int | None, text: str | None) -> Response:
    return Response(f"{status}: {text}\n", status, mimetype="text/plain")


def _body(request: Request, **fields: type) -> dict[str, Any]:
    """The fields of a JSON body, each of its type and no others.

    Raises:
        BadRequest: it is not so.
    """
    body = request.get_json()
    if not isinstance(body, dict) or {name: type(value) for name, value in body.items()} != fields:
        wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
        raise BadRequest(f"The body must have {wanted} and nothing else.")
    return body
