"""A front has no torch, and answers as a gateway with the model in its process does."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_tools import private_folder, server_of, serving
from gateway_tools import LocalGateway, sentence_of
from reference import assert_same
from server import ROOT
from watched import WatchedEngine, run, until

from e5.embedder import Embedder
from e5.errors import TokenizerError
from e5.gateway.engines_backend import EnginesBackend

TEXTS = ["Frozen water.", "a\nline break", "雪 😀", "A car."]


def test_it_answers_as_the_model_in_this_process(
    embedder: Embedder, local: LocalGateway, checkpoint: Path
) -> None:
    engine = WatchedEngine(embedder)
    engine.embedder.name = embedder.name
    body = {"model": "small", "input": TEXTS, "input_type": "query"}
    expected = local.post("/v1/embeddings", body)

    async def story() -> None:
        async with serving(server_of(engine)) as paths:
            backend = await EnginesBackend.connect(paths, checkpoint)
            info = await backend.info()
            assert (info.name, info.dimensions) == (embedder.name, embedder.dimensions)
            assert info.max_length == embedder.max_length
            assert info.max_batch_tokens == engine.max_batch_tokens
            gateway = LocalGateway(backend, model=info.name)
            async with gateway.client() as client:
                answer = await client.post("/v1/embeddings", json=body)
                assert answer.json()["usage"] == expected.json()["usage"]
                found, truth = (
                    np.array([row["embedding"] for row in each.json()["data"]], np.float32)
                    for each in (answer, expected)
                )
                assert_same(found, truth)
                assert answer.headers["x-e5-model"] == embedder.name
                body_of_bad = {"model": "small", "input": ["a", "word " * 5000], "truncate": "NONE"}
                sentence = sentence_of(await client.post("/v1/embeddings", json=body_of_bad), 400)
                assert sentence.startswith("input[1]: received a text of 5003 tokens")
                tokens = await client.post("/tokenize", json={"inputs": "snow"})
                assert tokens.status_code == 200, tokens.text
            await gateway.gateway.close()

    run(story)


def test_without_an_engine_it_is_not_ready_and_says_so_to_all(
    embedder: Embedder, checkpoint: Path
) -> None:
    async def story() -> None:
        server = server_of(WatchedEngine(embedder))
        with private_folder() as folder:
            await server.start(folder / "engine")
            backend = await EnginesBackend.connect([folder / "engine"], checkpoint)
            async with LocalGateway(backend, model="watched").client() as client:
                assert (await client.get("/ready")).status_code == 200
                await server.stop()
                await until(lambda: not backend._service.healthy)
                assert (await client.get("/ready")).status_code == 503
                assert (await client.get("/health")).status_code == 200
                refused = await client.post(
                    "/v1/embeddings", json={"model": "watched", "input": "a"}
                )
                assert "try again in a moment" in sentence_of(refused, 503)
                assert refused.headers["retry-after"] == "1"
                metrics = (await client.get("/metrics")).text
                assert "\ne5_gateway_queue_tokens 0.0\n" in metrics
            await backend.close()

    run(story)


def test_a_folder_with_another_tokenizer_leaves_no_connection(
    embedder: Embedder, tmp_path: Path
) -> None:
    async def story() -> None:
        server = server_of(WatchedEngine(embedder))
        async with serving(server) as paths:
            with pytest.raises(TokenizerError):
                await EnginesBackend.connect(paths, tmp_path)
            await until(lambda: not server.connections)

    run(story)


FRONT = """
import asyncio, json, sys
from pathlib import Path
from e5.gateway import EnginesBackend, Gateway, ModelNames, serve
from e5.serving import EmbedRequest

async def main(socket, weights):
    backend = await EnginesBackend.connect([Path(socket)], Path(weights))
    gateway = Gateway(backend, ModelNames((await backend.info()).name))
    answer = await backend.answer(EmbedRequest.parse(queries=["snow", "ice"], document="rain"))
    await gateway.close()
    print(json.dumps([answer.vectors.tolist(), answer.tokens, sorted(sys.modules)]))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_front_end_has_no_torch(embedder: Embedder, checkpoint: Path) -> None:
    async def story() -> None:
        async with serving(server_of(WatchedEngine(embedder))) as [path]:
            front = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", FRONT, path, checkpoint), cwd=ROOT, stdout=subprocess.PIPE
            )
            said, _ = await front.communicate()
            vectors, tokens, modules = json.loads(said)
            truth = embedder.tokenize(["snow", "ice"], ["rain"])
            assert tokens == [len(text.token_ids) for text in truth]
            computed = embedder.compute([text.token_ids for text in truth])
            assert_same(np.array(vectors, np.float32), computed.vectors)
            loaded = {name.split(".")[0] for name in modules}
            assert {"tokenizers", "starlette", "numpy"} <= loaded
            assert not loaded & {"torch", "transformers", "safetensors", "pyarrow"}

    run(story)
