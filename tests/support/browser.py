"""A headless Chromium, told what to do by the DevTools protocol over two pipes.

Pipes, because they need no library, no port and no driver program. Knows nothing of what it shows.
"""

import base64
import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CHROMIUM = shutil.which("chromium")
SECONDS = 60.0  # that an answer may take; a busy machine is slow
ALONE = [
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers
    "--no-first-run",  # and nothing of its own goes out:
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
]
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}  # with their codes
MODIFIERS = {"Control": 2, "Shift": 8}


@dataclass
class Tab:
    """One page.

    Attributes:
        problems: exceptions, errors in the console and violations of the policy, so far.
        requested: the URLs of all requests so far.
    """

    browser: "Browser"
    context: str
    session: str
    problems: list[Any] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    loaded: threading.Event = field(default_factory=threading.Event)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        return self.browser.send(method, self.session, **parameters)

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.loaded.clear()
        self.send("Page.navigate", url=url)
        assert self.loaded.wait(SECONDS), f"{url} did not load"

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        given = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        done = self.send("Runtime.evaluate", expression=script, **given)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of an expression, once it is true."""
        polled = (
            "new Promise((done) => { const look = () => { const found = (%s); "
            "found ? done(found) : setTimeout(look, 10); }; look(); })"
        )
        return self.run(polled % script)

    def press(self, key: str, *held: str) -> None:
        """A key goes down and up, with others held."""
        told = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": KEYS[key],
            "modifiers": sum(MODIFIERS[name] for name in held),
            **({"text": "\r"} if key == "Enter" else {}),
        }
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, **told)

    def type(self, text: str) -> None:
        """Text goes into what has the focus, in place of what is there."""
        self.run("document.activeElement.select()")
        self.send("Input.insertText", text=text)

    def show_as(self, width: int, height: int, scheme: str = "light") -> None:
        """Be a screen of some CSS pixels, in a light or a dark scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def allow_clipboard(self) -> None:
        """Scripts may read and write it."""
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self.browser.send(
            "Browser.grantPermissions", browserContextId=self.context, permissions=permissions
        )

    def picture(self, file: Path) -> None:
        """A PNG of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A running Chromium; `start` is the way to one."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        """Speak over two pipes."""
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command, and its result."""
        self._number += 1
        number = self._number
        answers = self._waiting[number] = queue.SimpleQueue()
        command = {"id": number, "method": method, "params": parameters}
        command |= {"sessionId": session} if session else {}
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        answer = answers.get(timeout=SECONDS)
        assert "error" not in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer["result"]
        return result

    def new_tab(self) -> Tab:
        """An empty page with nothing of the others' storage."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)
        found = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, context, found["sessionId"])
        self._tabs[tab.session] = tab
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            tab.send(f"{domain}.enable")
        return tab

    def _listen(self) -> None:
        message = bytearray()
        while piece := os.read(self._answers.fileno(), 2**16):
            *whole, rest = piece.split(b"\0")
            for end in whole:
                message += end
                self._heard(json.loads(message))
                message.clear()
            message += rest
        for waiting in self._waiting.values():
            waiting.put({"error": "Chromium ended"})

    def _heard(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._waiting.pop(message["id"]).put(message)
            return
        tab = self._tabs.get(message.get("sessionId", ""))
        if tab is None:
            return
        method, told = message["method"], message["params"]
        if method == "Page.loadEventFired":
            tab.loaded.set()
        elif method == "Network.requestWillBeSent":
            tab.requested.append(told["request"]["url"])
        elif method == "Log.entryAdded":
            entry = told["entry"]
            # An answer of 400 is an entry of "network", and no problem of the page.
            if entry["level"] in ("warning", "error") and entry["source"] != "network":
                tab.problems.append(entry)
        elif method == "Runtime.consoleAPICalled":
            if told["type"] in ("error", "warning", "assert"):
                tab.problems.append(told)
        elif method == "Runtime.exceptionThrown":
            tab.problems.append(told)
        elif method == "Audits.issueAdded" and told["issue"]["code"] != "PerformanceIssue":
            tab.problems.append(told)  # violations of the policy are here as well


@contextmanager
def start() -> Iterator[Browser]:
    """Run Chromium with a new profile; nothing is left behind."""
    assert CHROMIUM is not None
    ours = [_high(end) for end in os.pipe()], [_high(end) for end in os.pipe()]
    (their_in, commands), (answers, their_out) = ours
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                # It reads commands from 3 and answers on 4.
                *("bash", "-c", f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}', CHROMIUM),
                *ALONE,
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(their_in, their_out),
            env={**os.environ, "HOME": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_in)
        os.close(their_out)
        with open(commands, "wb") as writes, open(answers, "rb") as reads:
            browser = Browser(writes, reads)
            try:
                yield browser
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                browser.listener.join()


def _high(end: int) -> int:
    """The end of a pipe under a number that the shell's 3 and 4 do not overwrite."""
    high = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return high
