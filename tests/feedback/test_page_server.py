"""The page's server: who is let in, what is answered, and that nothing is lost when much happens at once."""

import hmac
import http.client
import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation.pictures import pil_image
from fastunlearn.feedback import Feedback
from fastunlearn.feedback.page import Labelling, Page, address, is_loopback, listen
from fastunlearn.feedback.page.server import known_host, tile

TOKEN = "t0ken-of-the-test"


@pytest.fixture
def labelling(model, tmp_path):
    return Labelling(model, tmp_path / "marked.safetensors", per_page=24)


@pytest.fixture
def page(labelling):
    return Page(labelling, TOKEN, "a <b>GAN</b>", "fastunlearn unlearn …")


def ask(page, path, method="GET", cookie=TOKEN, header=None, host="127.0.0.1:5000", **options):
    """One request with nothing but what is said here."""
    headers = {"Host": host, **({"X-Token": header} if header else {}), **options.pop("headers", {})}
    client = Client(page)
    if cookie:
        client.set_cookie("fastunlearn-5000", cookie, domain=host.partition(":")[0])
    return client.open(path, method=method, base_url=f"http://{host}", headers=headers, **options)


def post(app, path, /, cookie=TOKEN, header=TOKEN, **body):
    return ask(app, path, "POST", cookie, header, json=body)


def picture(page, place):
    key = re.search(r'data-key="([^"]+)"', ask(page, "/").text)[1]
    return f"/image/{key}/{place}.png"


READ = ("/", "/state", "/chart", "/feedback.css", "/feedback.js", "/page.js", "/icon.svg", "/image/x/0.png", "/nothing")
CHANGE = ("/mark", "/turn", "/undo", "/order")


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("cookie", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "é"])
def test_nothing_is_read_without_the_token(page, path, cookie):
    answer = ask(page, path, cookie=cookie)
    assert answer.status_code == 403
    assert (
        answer.text == "403: The token is missing or old: open the address that 'fastunlearn feedback' printed last.\n"
    )
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", CHANGE)
@pytest.mark.parametrize("header", [None, "wrong"])
def test_nothing_is_changed_without_the_token_in_a_header(page, labelling, path, header):
    """The cookie comes along with whatever another site makes the browser send; the header does not."""
    before = labelling.session
    body = {"page": 0, "image": 1, "marked": True} if path == "/mark" else {"page": 0}
    assert post(page, path, header=header, **body).status_code == 403
    form = ask(page, path, "POST", data="{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 403
    assert ask(page, f"{path}?token={TOKEN}", "POST", json=body).status_code == 403
    assert labelling.session is before


def test_the_token_in_the_address_becomes_a_cookie(page):
    client = Client(page)
    answer = client.get(f"/?token={TOKEN}", base_url="http://127.0.0.1:5000")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"fastunlearn-5000={TOKEN};")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert client.get("/", base_url="http://127.0.0.1:5000").status_code == 200
    assert client.get("/state", base_url="http://127.0.0.1:5000").status_code == 200


def test_a_wrong_token_in_the_address(page):
    for query in ("?token=wrong", "?token=", "?token=%00", "?token=%C3%A9"):
        answer = ask(page, f"/{query}", cookie=None)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


def test_tokens_are_compared_in_constant_time(page, monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert ask(page, "/state", cookie="mine").status_code == 403
    assert compared == [(b"mine", TOKEN.encode())]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example:5000", "10.0.0.7:5000", "[", ""]
)
def test_names_that_are_not_the_pages(page, host):
    """A foreign name that resolves to this machine, with a browser that even knows the token."""
    environ = {"HTTP_HOST": host, "SERVER_PORT": "5000"}
    client = Client(page)
    client.set_cookie("fastunlearn-5000", TOKEN, domain="localhost")
    answer = client.get("/state", environ_overrides=environ)
    assert answer.status_code == 403
    assert "does not go by" in answer.text


@pytest.mark.parametrize(
    ("header", "host", "known"),
    [
        ("localhost:9", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("[::1]:9", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("192.168.1.1", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("box.lan:9", "box.lan", True),
        ("other.lan:9", "box.lan", False),
        ("[fe80::1]:9", "[fe80::1]", True),
        ("192.168.1.5:9", "0.0.0.0", True),
        ("[fe80::1]", "::", True),
        (f"{socket.gethostname()}:9", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("user@evil.example", "0.0.0.0", False),
        ("", "0.0.0.0", False),
    ],
)
def test_known_hosts(header, host, known):
    assert known_host(header, host) is known


@pytest.mark.parametrize(
    ("path", "cookie"), [("/", TOKEN), ("/", None), ("/state", TOKEN), ("/nothing", TOKEN), ("/feedback.js", TOKEN)]
)
def test_headers_of_every_answer(page, path, cookie):
    headers = ask(page, path, cookie=cookie).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(page):
    html = ask(page, "/").text
    assert "a &lt;b&gt;GAN&lt;/b&gt;" in html
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?:", html)
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', html):
        assert ask(page, name).status_code == 200
    assert "--light-forget:" in ask(page, "/feedback.css").text  # the colours of the report


@pytest.mark.parametrize(("side", "wide", "narrow"), [(28, 140, 84), (32, 128, 96), (64, 128, 128), (256, 160, 160)])
def test_small_images_are_enlarged_by_whole_factors(side, wide, narrow):
    assert (tile(side, 128), tile(side, 96)) == (wide, narrow)


def test_images(page, labelling, model):
    labelling.turn(0)
    for place in (0, 23, 24, 47):
        answer = ask(page, picture(page, place))
        assert answer.mimetype == "image/png"
        assert "immutable" in answer.headers["Cache-Control"]
        expected = pil_image(model.generate(*labelling.stream([place]))[0])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.data))), np.asarray(expected))
    assert ask(page, picture(page, 48)).status_code == 404  # not shown yet
    assert ask(page, "/image/another-generator/0.png").status_code == 404


def test_marking_and_going_on(page, labelling):
    assert ask(page, "/state").json == {
        "page": 0,
        "images": list(range(24)),
        "marked": [],
        "total": {"marked": 0, "seen": 0},
        "undo": False,
        "order": "uncertain",
    }
    assert post(page, "/mark", page=0, image=4, marked=True).json["marked"] == [4]
    assert post(page, "/mark", page=0, image=4, marked=True).json["total"] == {"marked": 1, "seen": 1}
    state = post(page, "/turn", page=0).json
    assert (state["page"], state["marked"], state["total"]) == (1, [], {"marked": 1, "seen": 24})
    assert post(page, "/undo", page=1).json["marked"] == [4]
    assert post(page, "/undo", page=0).json["total"] == {"marked": 0, "seen": 0}
    assert post(page, "/order", order="drawn").json["order"] == "drawn"
    assert Feedback.load(labelling.path).n_undesired == 0


def test_the_chart_is_there_from_ten_marks_on(page):
    post(page, "/turn", page=0)
    for image in range(24, 33):
        post(page, "/mark", page=1, image=image, marked=True)
    assert ask(page, "/chart").json is None
    post(page, "/mark", page=1, image=33, marked=True)
    chart = ask(page, "/chart").json
    assert sum(bin["marked"] for bin in chart["bins"]) == 10
    assert sum(bin["unmarked"] for bin in chart["bins"]) == 24
    assert not chart["chosen"]
    post(page, "/turn", page=1)
    assert ask(page, "/chart").json["chosen"]


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/mark", b"", 400),
        ("/mark", b"[]", 400),
        ("/mark", b"null", 400),
        ("/mark", b"{", 400),
        ("/mark", b"\xff", 400),
        ("/mark", b"[" * 900, 400),
        ("/mark", b'{"page": 0, "image": 1}', 400),
        ("/mark", b'{"page": 0, "image": 1, "marked": 1}', 400),
        ("/mark", b'{"page": 0, "image": 1.0, "marked": true}', 400),
        ("/mark", b'{"page": false, "image": 1, "marked": true}', 400),
        ("/mark", b'{"page": 0, "image": 1, "marked": true, "more": 1}', 400),
        ("/mark", b'{"page": 0, "image": 99, "marked": true}', 500),
        ("/mark", b" " * 2000, 413),
        ("/order", b'{"order": "best"}', 400),
        ("/order", b'{"order": []}', 400),
    ],
)
def test_bodies_that_cannot_be(page, labelling, path, data, status):
    before = labelling.session
    answer = ask(page, path, "POST", header=TOKEN, data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert len(answer.text) < 1000
    assert labelling.session is before


def test_other_methods_and_addresses(page):
    assert ask(page, "/mark").status_code == 405
    assert ask(page, "/state", "POST", header=TOKEN).status_code == 405
    assert ask(page, "/../pyproject.toml").status_code == 404


def test_two_windows(page):
    """What the second window still shows was finished in the first: it is told, and shown where things stand."""
    post(page, "/turn", page=0)
    for path, body in (("/mark", {"image": 3, "marked": True}), ("/turn", {}), ("/undo", {})):
        answer = post(page, path, page=0, **body)
        assert answer.status_code == 409
        assert "page 1 is not the current one" in answer.json["error"]
        assert answer.json["state"]["page"] == 1


def test_a_disk_that_is_full(page, labelling, monkeypatch):
    def full(self, path):
        raise FastUnlearnError("cannot write marked.safetensors: No space left on device")

    monkeypatch.setattr(Feedback, "save", full)
    answer = post(page, "/mark", page=0, image=3, marked=True)
    assert answer.status_code == 500
    assert "No space left" in answer.json["error"]
    assert answer.json["state"]["marked"] == []


def test_marking_does_not_wait_for_images(model, tmp_path, monkeypatch):
    held, generate = threading.Event(), model.generate
    monkeypatch.setattr(model, "generate", lambda *arguments: held.wait(30) and generate(*arguments))
    labelling = Labelling(model, tmp_path / "f", per_page=3)
    page = Page(labelling, TOKEN, "gan", "")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, page, picture(page, 0))
        assert post(page, "/mark", page=0, image=1, marked=True).status_code == 200
        assert post(page, "/turn", page=0).json["images"] == [3, 4, 5]
        assert not waiting.done()
        held.set()
        assert waiting.result(30).status_code == 200


def fail(z, noise_seed):
    raise RuntimeError("out of memory")


def test_the_next_page_is_made_ahead(page, model, monkeypatch):
    end = time.monotonic() + 30
    while sum(model.batches) < 48 and time.monotonic() < end:
        time.sleep(0.01)
    monkeypatch.setattr(model, "generate", fail)
    post(page, "/turn", page=0)
    for place in range(24, 48):
        assert ask(page, picture(page, place)).status_code == 200


def test_a_generator_that_fails(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "generate", fail)
    page = Page(Labelling(model, tmp_path / "f"), TOKEN, "gan", "")
    answer = ask(page, picture(page, 0))
    assert answer.status_code == 500
    assert answer.json["error"] == "generator: out of memory"
    with pytest.raises(FastUnlearnError, match="generator: out of memory"):
        page.pictures.get(0)


@pytest.fixture
def server(page):
    started = listen(page)
    thread = threading.Thread(target=started.serve_forever, args=(0.02,))
    thread.start()
    yield started
    started.shutdown()
    thread.join()


def send(server, path, **body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"X-Token": TOKEN, "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    return answer.status, value


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", server.port))  # this machine too, but not the address that was bound
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/\?token={TOKEN}", address(server, server.app, TOKEN))


def test_a_port_that_is_taken(server, page):
    with pytest.raises(
        FastUnlearnError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*\); give another --host or --port"
    ):
        listen(page, server.port)


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box.lan", False)]
)
def test_whose_host_it_is(host, own):
    assert is_loopback(host) is own


def test_all_interfaces_only_where_asked(labelling):
    page = Page(labelling, TOKEN, "gan", "", host="0.0.0.0")
    server = listen(page)
    assert server.socket.getsockname()[0] == "0.0.0.0"
    assert address(server, page, TOKEN).startswith(f"http://{socket.gethostname()}:{server.port}/?token=")
    server.server_close()


def test_many_marks_at_once(server, labelling):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: send(server, "/mark", page=0, image=i, marked=True), range(24)))
    assert [status for status, _ in answers] == [200] * 24
    assert Feedback.load(labelling.path).n_undesired == 24
    assert Labelling(labelling.model, labelling.path).session.marked == set(range(24))


def test_of_many_who_turn_one_page_one_does(server, labelling):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(server, "/turn", page=0), range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert len(labelling.session.pages) == 2
    assert all(value.get("state", value)["page"] == 1 for _, value in answers)


def test_the_terminal_stays_quiet(server, capfd):
    assert send(server, "/turn", page=0)[0] == 200
    assert capfd.readouterr() == ("", "")
