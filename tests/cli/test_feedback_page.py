"""`fastunlearn feedback` without a browser: what it prints, how it ends, and which flags go together."""

import json
import signal
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from urllib.parse import urlsplit

import pytest
from feedback_server import Server
from werkzeug.serving import BaseWSGIServer

from fastunlearn.cli import feedback
from fastunlearn.feedback import Feedback


def mark(url, *images):
    """What the page's script sends."""
    root, token = url.partition("/?token=")[::2]
    for image in images:
        body = json.dumps({"page": 0, "image": image, "marked": True}).encode()
        headers = {"X-Token": token, "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{root}/mark", body, headers), timeout=30) as answer:
            state = json.load(answer)
    return state


def test_killed_and_started_again(gan, tmp_path):
    path = tmp_path / "feedback-bundle.safetensors"
    with Server(tmp_path, "--gan", gan / "bundle") as first:
        assert first.said[0] == f"{path.name}: 0 marked, 0 seen\n"
        address = urlsplit(first.url)
        assert address.hostname == "127.0.0.1"
        assert len(address.query) > len("token=") + 40
        assert mark(first.url, 3, 5)["total"] == {"marked": 2, "seen": 2}
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert Feedback.load(path).n_undesired == 2

    with Server(tmp_path, "--gan", gan / "bundle") as second:
        assert second.said[0] == f"{path.name}: 2 marked, 2 seen\n"
        assert second.url.partition("token=")[2] != first.url.partition("token=")[2]
        page = second.url.partition("?")[0]
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with browser.open(second.url, timeout=30) as answer:
            assert "Mark what must not come back" in answer.read().decode()
        with browser.open(f"{page}state", timeout=30) as answer:
            assert json.load(answer)["marked"] == [3, 5]
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(page, timeout=30)
        refused.value.close()
        code, out, err = second.end(signal.SIGINT)
    assert (code, err) == (0, "")
    assert f"{path.name}: 2 undesired and 0 desired images\n" in out
    assert "fastunlearn unlearn feature-unlearn --gan" in out


def test_another_host_is_warned_about(gan, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", BaseWSGIServer.server_close)
    start = ("feedback", "--gan", gan / "bundle", "--no-browser", "--out", tmp_path / "f.safetensors")
    assert cli(*start)[2] == ""
    code, _, err = cli(*start, "--host", "0.0.0.0")
    assert code == 0
    assert err == (
        "warning: --host 0.0.0.0 lets in whoever reaches this machine and has the address below; what is sent is not "
        "encrypted\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--forget", 8), "--forget means nothing without --simulate"),
        (("--store-images",), "--store-images means nothing without --simulate"),
        (("--simulate", "morphology", "--out", "f", "--port", 80), "--port means nothing with --simulate"),
        (("--simulate", "morphology"), "--simulate needs --out FILE"),
        (("--per-page", 0), "per_page must be in [1, 200], got 0"),
        (("--port", 70_000), "port must be in [0, 65535], got 70000"),
        (("--host", "256.1.1.1"), "cannot listen on 256.1.1.1:0"),
        (("--out", "/proc/version"), "truncated, or not a safetensors file"),
    ],
)
def test_refusals(gan, cli, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("feedback", "--gan", gan / "bundle", *flags)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_file_of_somebody_else(gan, cli, tmp_path):
    simulate = ("--simulate", "classifier", "--classifier", gan / "classifier.pt", "--forget", 1, "--no-progress")
    start = ("feedback", "--gan", gan / "bundle", "--out", tmp_path / "f.safetensors")
    assert cli(*start, *simulate)[0] == 0
    assert "was not labelled on this page; give another --out" in cli(*start, "--no-browser")[2]


@pytest.mark.parametrize(
    ("display", "opens"), [({}, False), ({"DISPLAY": ":0"}, True), ({"WAYLAND_DISPLAY": "w"}, True)]
)
def test_no_browser_opens_in_a_terminal(monkeypatch, display, opens):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in display.items():
        monkeypatch.setenv(name, value)
    assert feedback.has_display() is opens
