"""Small programs in the places of engines and fronts, which start in no time and fail on demand.

They take the command lines of the real ones, and say what these say; they compute nothing.
"""

import sys
from pathlib import Path

from e5.prompts import Prompts
from e5.serving.frames import EngineHello, EngineState, hello_frame, state_frame

PYTHON = [sys.executable, "-I", "-S", "-c"]

# FRAMES: what it sends, the last one again and again. JOURNAL: a file that it writes its steps to.
# FAULT: a file whose content, if there is any, is an exit status with which it ends at its start.
ENGINE = [*PYTHON, """
import os, signal, socket, sys, time
def note(step):
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"{step} {os.getpid()}\\n")
note("start")
if os.path.exists(os.environ["FAULT"]):
    status = int(open(os.environ["FAULT"]).read())
    os.kill(os.getpid(), -status) if status < 0 else sys.exit(status)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
path, frames = sys.argv[-1], [bytes.fromhex(text) for text in os.environ["FRAMES"].split()]
if os.path.exists(path):
    os.unlink(path)
time.sleep(0.05)  # it loads
server = socket.socket(socket.AF_UNIX)
server.bind(path)
note("listen")
server.listen()
client, _ = server.accept()
client.sendall(b"".join(frames))
while True:
    time.sleep(0.02)
    if frames[1:]:
        client.sendall(frames[-1])
"""]  # fmt: skip

# It shows its pulse; TERM says what it does on SIGTERM.
FRONT = [*PYTHON, """
import json, os, signal, sys, time
place = json.loads(sys.argv[-1])
signal.signal(signal.SIGTERM, lambda *_: os.environ["TERM"] == "end" and os._exit(0))
while True:
    os.write(0, b".")
    time.sleep(0.02)
"""]  # fmt: skip


def hello(name: str = "small@0123456789ab") -> str:
    """A HELLO as FRAMES takes it."""
    told = EngineHello(
        name=name,
        tokenizer_sha256="",
        prompts=Prompts(),
        dimensions=8,
        max_length=4096,
        max_batch_tokens=2048,
        max_queue_tokens=1000,
    )
    return b"".join(hello_frame(told)).hex()


def state(*, healthy: bool = True, waiting_tokens: int = 0) -> str:
    """A STATE as FRAMES takes it."""
    return b"".join(state_frame(EngineState(healthy, waiting_tokens))).hex()


def state_of(process_id: int) -> str:
    """The letter that the system has for it; "" if it is gone, or dead and not yet reaped."""
    try:
        letter = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if letter in "ZX" else letter
