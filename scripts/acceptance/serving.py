"""The service's part: the real server over HTTP under load, and the image where Docker is.

Knows nothing of how vectors are computed; compares them with those of the engine alone.
"""

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np

from acceptance.lines import Line, at_least, not_run, passes
from acceptance.subject import ROOT, Subject
from acceptance.vectors import some_texts
from benchmarks.server import running
from e5.vectors import cosine_scores

CLIENTS = 32
LEAST_COSINE = 0.9999  # of a text's vector over HTTP, whatever it was computed with
IMAGE = "e5-mistral-accept"


def server(subject: Subject) -> Sequence[Line]:
    """Clients that send mixed requests at the same time; every vector is compared."""
    texts, requests = some_texts(200), subject.workload.requests
    truth = subject.load().encode_document(texts)
    environment = {"E5_WEIGHTS": str(subject.weights), "E5_DEVICE": subject.device}
    milliseconds: list[float] = []
    cosines: list[float] = []
    failures: list[str] = []
    busy: list[int] = []
    limits = httpx2.Limits(max_connections=None)
    with (
        running(**environment) as url,
        httpx2.Client(base_url=url, timeout=300, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def ask(number: int) -> bool:
            draw = random.Random(number)
            some = draw.sample(range(len(texts)), draw.choice((1, 1, 1, 2, 5, 20)))
            started = time.perf_counter()
            sent = {"documents": [texts[i] for i in some]}
            response = client.post("/predictions", json={"input": sent})
            while response.status_code == 409:  # Cog says it now and then; deploy.md has why
                busy.append(number)
                time.sleep(0.01)
                response = client.post("/predictions", json={"input": sent})
            answer = response.json()
            milliseconds.append(1e3 * (time.perf_counter() - started))
            if answer.get("status") != "succeeded":
                failures.append(str(answer)[:300])
                return False
            vectors = np.array(answer["output"]["embeddings"], np.float32)
            cosines.append(float(np.diag(cosine_scores(vectors, truth[some])).min()) / 100)
            return True

        started = time.perf_counter()
        answered = sum(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - started
        refused = client.post("/predictions", json={"input": {"documents": [" "]}}).json()
        alive = ask(0)
    print("\n".join(failures))  # into the log
    cuts = statistics.quantiles(milliseconds, n=100)
    return [
        passes("requests answered", f"{answered} of {requests}", answered == requests),
        at_least("least cosine to the engine's vectors", min(cosines), LEAST_COSINE),
        Line("of them sent again after 409", str(len(busy))),
        Line(f"{CLIENTS} clients", f"{requests / seconds:.1f} requests/s"),
        Line("latency", f"p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms, p99 {cuts[98]:.0f} ms"),
        passes("bad input is refused", refused["error"], refused["status"] == "failed"),
        passes("and the next request answered", "yes" if alive else "no", alive),
    ]


def image(subject: Subject) -> Sequence[Line]:
    """`cog build` from a clean clone, and a prediction by the image."""
    what = "cog build, cog predict"
    for program in ("docker", "cog", "git"):
        if shutil.which(program) is None:
            return [not_run(what, f"{program} is not installed")]
    if not subject.on_a_card or subject.weights.parent != ROOT / "weights":
        return [not_run(what, "the image serves weights/ on a card")]
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:
        clone = Path(folder) / "clone"
        _command("git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone))
        # The weights, not copied again.
        target = clone / "weights" / subject.weights.name
        target.mkdir(exist_ok=True)
        for file in subject.weights.iterdir():
            if file.is_file() and not (target / file.name).exists():
                os.link(file, target / file.name)
        built = _command("cog", "build", "--separate-weights", "-t", IMAGE, folder=clone)
        if built:
            return [passes("cog build", f"ended with {built}", False)]
        document = ["-i", "document=Snow is frozen water.", "--setup-timeout", "1800"]
        asked = _command("cog", "predict", IMAGE, *document, folder=clone)
    return [
        passes("cog build", "built", True),
        passes("cog predict", f"ended with {asked}", asked == 0),
    ]


def _command(*command: str, folder: Path = ROOT) -> int:
    return subprocess.run(command, cwd=folder).returncode
