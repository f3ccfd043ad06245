"""A worker counts its predictions, hands over errors as data, and knows whether Cog can go on."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from e5.cog.prediction_folders import PredictionFolders
from e5.cog.worker import CogWorker
from e5.errors import EngineError, FileError, InputError
from e5.serving import Answer, EmbedRequest


@pytest.fixture
def metrics() -> dict[str, object]:
    return {}


@pytest.fixture
def worker(tmp_path: Path, metrics: dict[str, object]) -> CogWorker:
    return CogWorker(metrics.__setitem__, PredictionFolders(tmp_path / "predictions"))


def test_the_metrics_of_an_answer_are_recorded_beside_its_output(
    worker: CogWorker, metrics: dict[str, object]
) -> None:
    vectors, scores = np.ones((1, 4), np.float32), np.empty((0, 1), np.float32)
    answer = Answer(vectors, scores, [3], [False], "e5@0", {"tokens": 3, "queue_ms": 0.5})
    with worker.prediction() as prediction:
        output = asyncio.run(prediction.output(answer, encoding_format="float"))
    assert output.model == "e5@0"
    assert metrics == {"tokens": 3, "queue_ms": 0.5}
    assert prediction.num_floats == 4


def test_a_file_among_the_inputs_is_its_text_and_limits_count_that(worker: CogWorker) -> None:
    uri = "data:text/plain;charset=utf-8;base64,c25vdw=="
    with worker.prediction() as prediction:
        request = prediction.request(task=uri, query=uri, queries=["a", uri], documents=[uri] * 2)
        assert request == EmbedRequest.parse(
            task="snow", query="snow", queries=["a", "snow"], documents=["snow"] * 2
        )
        long = "%20a" * 500_000
        assert prediction.request(query=f"data:,{long}").num_characters > 1_000_000


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"documents": ["a", "data:a/b;base64,/w=="]}, "documents[1]: received a/b of 1 bytes, w"),
        ({"task": "data:a/b;base64,c", "query": "a"}, "task: received a/b in damaged base64 of 1 "),
        ({"query": "data:text/plain;base64,"}, "query: received blank text; "),
        ({"query": "data:," + "a" * 1_000_001}, "query: received 1000001 characters; "),
        ({"query": "data:," + "%61" * 1_000_001}, "query: received 1000001 characters; "),
        ({"task": "data:," + "a" * 10_001, "query": "a"}, "task: received 10001 characters; "),
        ({"queries": ["data:a/b;base64,/w=="] * 2049}, "queries, documents: received 2049 texts; "),
        ({"documents": "data:,a"}, 'documents: received "data:,a"; send a list of strings.'),
        ({"query": "a", "self": "data:,a"}, "self: received an unknown input; "),
    ],
)
def test_a_file_that_cannot_be_embedded_is_named(
    worker: CogWorker, metrics: dict[str, object], inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught, worker.prediction() as prediction:
        prediction.request(**inputs)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 250
    assert metrics == {"error": caught.value.to_dict()}


def test_an_error_of_ours_is_raised_as_it_is_and_recorded_as_data(
    worker: CogWorker, metrics: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    refusal = InputError("queries[1]", "5; received", 'send a "string"')
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(InputError) as raised,
        worker.prediction(),
    ):
        raise refusal
    assert raised.value is refusal
    assert metrics == {"error": refusal.to_dict()}
    assert f"refused: {refusal}" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_unexpected_error_is_logged_and_becomes_one_of_the_engine(
    worker: CogWorker, metrics: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineError) as raised, worker.prediction():
        raise KeyError("secret")
    assert str(raised.value) == "the service failed on this request; its log has the reason."
    assert metrics == {"error": raised.value.to_dict()}
    assert raised.value.__suppress_context__, "a traceback of it does not show what was wrong"
    assert "KeyError: 'secret'" in caplog.text


def test_a_cancelled_prediction_is_not_an_error(
    worker: CogWorker, metrics: dict[str, object]
) -> None:
    with pytest.raises(asyncio.CancelledError), worker.prediction():
        raise asyncio.CancelledError
    assert metrics == {}
    assert worker.num_running == 0


def test_the_number_of_running_predictions_is_written_for_the_probe(
    worker: CogWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "5123")
    with worker.prediction(), worker.prediction():
        worker.report_running()
    assert (tmp_path / "e5-running-5123").read_text() == "2"
    worker.report_running()
    assert (tmp_path / "e5-running-5123").read_text() == "0"


@pytest.mark.parametrize(("encoding_format", "free"), [("float", 10**7), ("base64", 10**6)])
def test_a_large_answer_for_whose_file_there_is_no_room_is_refused(
    encoding_format: str, free: int, worker: CogWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    vectors, scores = np.ones((1200, 1000), np.float32), np.empty((0, 1), np.float32)
    answer = Answer(vectors, scores, [3] * 1200, [False] * 1200, "e5@0", {})
    refused = pytest.raises(FileError, match=rf"^{worker.folders.root}: has {free} bytes free, ")
    with refused, worker.prediction() as prediction:
        asyncio.run(prediction.output(answer, encoding_format=encoding_format))


def test_a_worker_is_unhealthy_while_cog_cannot_make_folders(
    tmp_path: Path, metrics: dict[str, object]
) -> None:
    folders = PredictionFolders(tmp_path / "predictions")
    worker = CogWorker(metrics.__setitem__, folders)
    assert worker.is_healthy()
    folders.root.rmdir()
    folders.root.write_text("")
    assert not worker.is_healthy()
    with pytest.raises(FileError, match="cannot be written"):
        CogWorker(metrics.__setitem__, folders)
    folders.root.unlink()
    assert worker.is_healthy()
