"""The steps about the service: the real server over HTTP under load, and the Docker image."""

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

from acceptance.candidate import ROOT, Candidate
from acceptance.lines import Line, at_least, not_run, passes
from acceptance.vectors import random_texts
from benchmarks.server import running
from e5.settings import Settings
from e5.vectors import cosine_scores

CLIENTS = 32
LEAST_COSINE = 0.9999  # of a vector over HTTP and the engine's own, in any batch
IMAGE = "e5-mistral-accept"


def server(candidate: Candidate) -> Sequence[Line]:
    """Send mixed requests from many clients at the same time; compare every vector."""
    texts, requests = random_texts(200), candidate.workload.requests
    truth = candidate.load().encode_document(texts)
    environment = {
        "E5_WEIGHTS": str(candidate.weights),
        "E5_DEVICE": candidate.device,
        "E5_ENGINE": candidate.engine,
    }
    milliseconds: list[float] = []
    cosines: list[float] = []
    failures: list[str] = []
    repeated: list[int] = []
    limits = httpx2.Limits(max_connections=None)
    with (
        running(**environment) as url,
        httpx2.Client(base_url=url, timeout=300, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def send(number: int) -> bool:
            rng = random.Random(number)
            numbers = rng.sample(range(len(texts)), rng.choice((1, 1, 1, 2, 5, 20)))
            started = time.perf_counter()
            inputs = {"documents": [texts[i] for i in numbers]}
            response = client.post("/predictions", json={"input": inputs})
            while response.status_code == 409:  # deploy.md says why Cog has no free slot at times
                repeated.append(number)
                time.sleep(0.01)
                response = client.post("/predictions", json={"input": inputs})
            answer = response.json()
            milliseconds.append(1e3 * (time.perf_counter() - started))
            if answer.get("status") != "succeeded":
                failures.append(str(answer)[:300])
                return False
            vectors = np.array(answer["output"]["embeddings"], np.float32)
            cosines.append(float(np.diag(cosine_scores(vectors, truth[numbers])).min()) / 100)
            return True

        started = time.perf_counter()
        answered = sum(pool.map(send, range(requests)))
        seconds = time.perf_counter() - started
        refused = client.post("/predictions", json={"input": {"documents": [" "]}}).json()
        alive = send(0)
    print("\n".join(failures))  # for the log
    percentiles = statistics.quantiles(milliseconds, n=100)
    latency = ", ".join(f"p{n} {percentiles[n - 1]:.0f} ms" for n in (50, 95, 99))
    return [
        passes("requests answered", f"{answered} of {requests}", answered == requests),
        at_least("least cosine to the engine's vectors", min(cosines), LEAST_COSINE),
        Line("of them sent again after 409", str(len(repeated))),
        Line(f"{CLIENTS} clients", f"{requests / seconds:.1f} requests/s"),
        Line("latency", latency),
        passes("bad input is refused", refused["error"], refused["status"] == "failed"),
        passes("and the next request answered", "yes" if alive else "no", alive),
    ]


def image(candidate: Candidate) -> Sequence[Line]:
    """Run `cog build` in a clean clone with these weights, and a prediction by the image."""
    what = "cog build, cog predict"
    for program in ("docker", "cog", "git"):
        if shutil.which(program) is None:
            return [not_run(what, f"{program} is not installed")]
    if not candidate.on_a_card or candidate.weights.parent != ROOT / "weights":
        return [not_run(what, "the image serves weights/ on a card")]
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:
        clone = Path(folder) / "clone"
        _command("git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone))
        # Link the weights instead of copying them, to where the image looks for some.
        target = clone / Settings.weights
        target.mkdir(exist_ok=True)
        for file in candidate.weights.iterdir():
            if file.is_file() and not (target / file.name).exists():
                os.link(file, target / file.name)
        built = _command("cog", "build", "--separate-weights", "-t", IMAGE, folder=clone)
        if built:
            return [passes("cog build", f"ended with {built}", False)]
        document = ["-i", "document=Snow is frozen water.", "--setup-timeout", "1800"]
        predicted = _command("cog", "predict", IMAGE, *document, folder=clone)
    version = subprocess.run(["cog", "--version"], capture_output=True, text=True).stdout.strip()
    return [
        Line("Cog's command line", version),
        passes("cog build", "built", True),
        passes("cog predict", f"ended with {predicted}", predicted == 0),
    ]


def _command(*command: str, folder: Path = ROOT) -> int:
    return subprocess.run(command, cwd=folder).returncode
