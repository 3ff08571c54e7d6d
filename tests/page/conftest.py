"""Headless Chromium, driven over the pipe that its DevTools protocol offers: nothing to install but the browser."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
import torch

from fastunlearn.evaluation import Pairs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 60
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
)
# It reads its commands from descriptor 3 and answers on 4.
LAUNCH = """
import os, sys
for descriptor, inherited in enumerate(sys.argv[1:3], 3):
    os.dup2(int(inherited), descriptor)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A browser process; `tab` opens a page."""

    def __init__(self, executable, profile):
        self._ids = itertools.count(1)
        self._buffer = b""
        self.events = []
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        inherited = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]  # neither is 3 or 4
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, *map(str, inherited), executable, *FLAGS, *sandbox),
                *(f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (commands, answers, *inherited):
            os.close(end)

    def call(self, method, session=None, **params):
        """Send a command, wait for its answer, keep the events that come before it."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def wait(self, method, session):
        """The next event of that name in a session, also one that has come already."""
        while True:
            for i, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    return self.events.pop(i)
            self.events.append(self._next())

    def close(self):
        """End it and everything it started."""
        try:
            self.call("Browser.close")
        except (RuntimeError, TimeoutError, OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)
        os.close(self._write)
        os.close(self._read)


class Tab:
    """One page, a file or an address, in a window of its own."""

    def __init__(self, browser, place, width, height=900, dark=False, reduced_motion=True, touch=False):
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        motion = "reduce" if reduced_motion else "no-preference"
        wanted = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": motion}
        self.call("Emulation.setEmulatedMedia", features=[{"name": k, "value": v} for k, v in wanted.items()])
        self.url = place if isinstance(place, str) else place.resolve().as_uri()
        self.go(self.url)

    def go(self, url):
        """Open an address and wait until everything is there."""
        self.call("Page.navigate", url=url)
        self.browser.wait("Page.loadEventFired", self.session)

    def front(self):
        """Make it the window that is drawn: only that one has frames."""
        self.call("Page.bringToFront")

    def reload(self):
        self.call("Page.reload")
        self.browser.wait("Page.loadEventFired", self.session)

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def run(self, script):
        """Value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description", script))
        return result["result"].get("value")

    def centre(self, selector, index=0):
        """Scroll an element into view and return where its middle is."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.settle()
        return self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")

    def wait(self, condition):
        """Until a JavaScript expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def settle(self):
        """Wait for two frames: events of scrolling and resizing are sent at the start of one."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def mouse(self, kind, x, y, **options):
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **options)

    def hover(self, selector, index=0):
        self.mouse("Moved", *self.centre(selector, index))

    def click(self, selector, index=0):
        x, y = self.centre(selector, index)
        for kind in ("Pressed", "Released"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def tap(self, selector, index=0):
        x, y = self.centre(selector, index)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key):
        code = KEYS.get(key) or ord(key.upper())
        text = {"text": {"Enter": "\r"}.get(key, key)} if key in WRITES else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)
            text = {}

    def screenshot(self, path, whole=True):
        """A PNG of the page, or of what the window shows."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def complaints(self):
        """What the console said, exceptions, violations of the policy, and requests for anything but the page.

        Of an address, the page is what comes from the same server.
        """
        self.run("0")  # events that are under way come before its answer
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            method, params = event["method"], event["params"]
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(params))
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
                found += [] if self._own(params["request"]["url"]) else [params["request"]["url"]]
        return found

    def _own(self, url):
        if self.url.startswith("file:"):
            return url.partition("#")[0] == self.url
        return urlsplit(url)[:2] == urlsplit(self.url)[:2]

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.events = [e for e in self.browser.events if e.get("sessionId") != self.session]


KEYS = {
    "Escape": 27,
    "Tab": 9,
    "Enter": 13,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}
WRITES = ("Enter", " ", "n", "u")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("needs Chromium or Chrome (apt-get install chromium)")
    started = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def tab(browser):
    """Open a page: tab(path, width, dark=…)."""
    opened = []

    def open_tab(path, width=1280, **options):
        opened.append(Tab(browser, path, width, **options))
        return opened[-1]

    yield open_tab
    for one in opened:
        one.close()


def score(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def report():
    """A whole report.json of version 2, every part of it measured."""
    classes = [
        {
            "label": k,
            "before": 150,
            "after": 3 if k == 8 else 100 + 12 * k,
            "ratio": None if k == 8 else (100 + 12 * k) / 150,
            "ratio_among_remaining": None,
            "kept": None if k == 8 else True,
        }
        for k in range(10)
    ]
    found = {
        "pul": 98.0,
        "pul_interval": [95.5, 99.4],
        "n_before": 150,
        "n_after": 3,
        "share_before": [0.09, 0.11],
        "share_after": [0.001, 0.005],
        "false_positive_rate": 0.001,
        "false_positive_interval": [0.0005, 0.0019],
        "false_negative_rate": 0.002,
        "pul_corrected": 98.7,
    }
    attributes = [
        {"name": f"class {k}", "before": 150, "after": 100 + 12 * k, "change": c, "low": c - 4, "high": c + 4}
        for k in range(10)
        if k != 8 and (c := 100 * (12 * k - 50) / 150) is not None
    ]
    thick = {"name": "thick strokes", "before": 400, "after": 480, "change": 20.0, "low": 11.0, "high": 29.5}
    quality = {"inception_score": score(8.41, 8.2, 8.6), "kid": score(0.0123), "precision": score(0.71)}
    unmeasured = {"recall": None, "density": None, "coverage": None, "ms_ssim": None}
    return {
        "version": 2,
        "forget": 8,
        "n": 1500,
        "seed": 3,
        "purpose": "report",
        "classifier": found,
        "second_classifier": {**found, "pul": 97.0, "pul_interval": [94.0, 98.9], "n_after": 4},
        "fid": {"original_full": 12.65, "original_without": 74.2, "unlearned_without": 19.4, "ratio": 1.53, "n": 1500},
        "classes": classes,
        "sha256": {"original": "a" * 64, "unlearned": "b" * 64, "classifier": "c" * 64},
        "versions": {"fastunlearn": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "ret_fid": {"value": 6.83, "n": 1500, "retrained_sha256": "d" * 64},
        "separation": {
            "roc_auc": 0.913,
            "low": 0.9,
            "high": 0.926,
            "n_undesired": 150,
            "n_desired": 1350,
            "score": "z",
        },
        "attributes": [*attributes, thick],
        "drift": [{"measure": "feature-cosine", "mean": 0.084, "low": 0.081, "high": 0.087, "n": 1350}],
        "quality": {"before": {**quality, **unmeasured}, "after": {**quality, **unmeasured, "kid": score(0.0456)}},
        "provenance": {
            "extractor": {
                "extractor": "lenet",
                "extractor_sha256": "e" * 64,
                "resize": "none",
                "n": 1500,
                "library": "fastunlearn 0.1.0",
                "standard": False,
            },
            "hashes": {"data": "f" * 64, "judges": {"classifier": "c" * 64}, "feedback": None},
            "versions": {"numpy": "2.3.5"},
            "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None, "memory_gb": 8.0},
            "kernels": {"upfirdn2d": "native", "bias_act": "native", "grid_sample": "reference"},
            "seconds": {"unlearning": 423.0, "evaluation": 61.2},
            "peak_memory_mb": 1234.0,
        },
        "not_measured": [{"what": "LPIPS", "why": "its package is not installed"}],
    }


@pytest.fixture
def old_report(report):
    """A report of version 1: no key of the second, no statistics, no second classifier."""
    from fastunlearn.evaluation.page.summary import NEW_KEYS

    kept = {k: v for k, v in report.items() if k not in {*NEW_KEYS, "version", "not_measured"}}
    return {**kept, "fid": None, "second_classifier": None}


@pytest.fixture
def pairs():
    """Twenty pairs of noise, two of each class; the first eight becomes a three, the second stays one."""
    rng = torch.Generator().manual_seed(0)
    before, after = torch.rand(2, 20, 1, 32, 32, generator=rng) * 2 - 1
    classes = torch.arange(10).repeat_interleave(2)
    became = classes.clone()
    became[16] = 3
    return Pairs(before, after, classes, became, 10)


@pytest.fixture
def run(tmp_path):
    """A run's folder with everything that the page reads beside report.json."""
    folder = tmp_path / "forget-8"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "config.yaml").write_text("unlearned: {method: {adapt-then-unlearn: {gamma: 10}}}\n")
    (folder / "config.yaml").write_text("gan: mnist32\nforget: 8\n")
    (folder / "environment.yaml").write_text("started: '2026-11-22T00:08:08+00:00'\nkernels: {a on cpu: native}\n")
    lines = [
        {"phase": phase, "step": step, "d/adversarial": 1.3 + 0.1 / step, "g/ewc": 1000.0 / step**3}
        for phase, steps in (("adapt-0", 200), ("adapt-1", 200), ("unlearn", 600))
        for step in range(20, steps + 1, 20)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "unl')
    return folder
