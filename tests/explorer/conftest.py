"""Chromium without a window, driven over pipes by the DevTools protocol: nothing needs to be installed for it."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One page. ``errors`` are what its console and its scripts complained of, and requests that left the file."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp()
        out, self.out = os.pipe()
        self.back, back = os.pipe()
        # The protocol's pipes are descriptors 3 and 4 of the program.
        command = (
            f"exec {program} --remote-debugging-pipe --headless --no-first-run --disable-gpu --disable-dev-shm-usage "
        )
        command += f"--no-sandbox --user-data-dir='{self.folder}' about:blank 3<&{out} 4>&{back}"
        self.process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(out, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(out), os.close(back)
        self.waiting, self.count, self.errors, self.session = b"", 0, [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """Send a command, and wait for its answer."""
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._hear(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, event):
        while (heard := self._next()).get("method") != event:
            self._hear(heard)

    def _next(self):
        while b"\0" not in self.waiting:
            assert select.select([self.back], [], [], 60)[0], "the browser is silent"
            part = os.read(self.back, 1 << 16)
            assert part, "the browser ended"
            self.waiting += part
        message, self.waiting = self.waiting.split(b"\0", 1)
        return json.loads(message)

    def _hear(self, event):
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.errors.append(told["args"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.errors.append(told["request"]["url"])

    def open(self, path, width=1400, height=1000, scheme="light"):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector, x=0.5, y=0.5):
        """Press the mouse at a share of the width and height of an element."""
        script = f"(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); "
        box = self.run(script + "const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]})()")
        where = {"x": box[0] + x * box[2], "y": box[1] + y * box[3], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, **where)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path):
        """Save the whole page as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.out), os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    found = Browser(program)
    yield found
    found.close()
