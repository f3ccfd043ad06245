"""The answer in the shape that Cog publishes: exact numbers, plain values, quickly written."""

import base64
import json
import sys
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from e5.serving.answer import Answer, Output, Usage, encode_base64, nine_digits, rows_of


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def an_output(encoding_format: str = "float") -> Output:
    answer = Answer(
        vectors=floats([1.5, -2.0], [0.25, 3.0]),
        scores=floats([42.5]),
        usage=Usage(tokens=[7, 3], truncated=[False, True]),
        model="e5@0123456789ab",
        metrics={},
    )
    return Output.of(answer, encoding_format=encoding_format)


def test_the_answer_is_a_mapping_that_cog_does_not_walk_and_json_takes() -> None:
    dumped = an_output().model_dump()
    assert isinstance(dumped, dict)
    assert type(dumped) is not dict, "Cog walks a plain dict element by element, in Python"
    assert json.loads(json.dumps(dumped)) == {
        "embeddings": [[1.5, -2.0], [0.25, 3.0]],
        "embeddings_base64": None,
        "score": 42.5,
        "scores": [[42.5]],
        "usage": {"tokens": [7, 3], "truncated": [False, True]},
        "model": "e5@0123456789ab",
    }


def test_the_answer_holds_plain_python_values_only() -> None:
    def assert_plain(value: object) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for child in value:
                assert_plain(child)
        else:
            assert value is None or type(value) in (str, bool, int, float)

    assert_plain(an_output().model_dump())
    assert_plain(an_output("base64").model_dump())


def test_base64_takes_the_place_of_the_numbers() -> None:
    output = an_output("base64").model_dump()
    assert output["embeddings"] is None
    assert output["embeddings_base64"] == [
        encode_base64(row) for row in floats([1.5, -2], [0.25, 3])
    ]
    assert output["score"] == 42.5


def test_base64_is_little_endian_float32() -> None:
    assert base64.b64decode(encode_base64(floats([1.0, -2.0])[0])) == bytes.fromhex(
        "0000803f000000c0"
    )
    big_endian = np.array([1.0, -2.0], ">f4").view()
    assert encode_base64(big_endian) == encode_base64(floats([1.0, -2.0])[0])


@pytest.mark.parametrize(
    ("scores", "score", "matrix"),
    [
        (floats([50.0]), 50.0, [[50.0]]),
        (floats([50.0, 25.0]), None, [[50.0, 25.0]]),
        (floats([50.0], [25.0]), None, [[50.0], [25.0]]),
        (np.empty((0, 1), np.float32), None, None),
        (np.empty((2, 0), np.float32), None, None),
    ],
)
def test_one_query_and_one_document_get_a_score_and_every_pair_gets_scores(
    scores: NDArray[np.float32], score: float | None, matrix: list[list[float]] | None
) -> None:
    usage = Usage(tokens=[3], truncated=[False])
    answer = Answer(floats([1.0]), scores, usage, "e5@0", metrics={})
    output = Output.of(answer, encoding_format="float")
    assert output.score == score
    assert output.scores == matrix


def test_nine_digits_name_every_float32() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    edges = [0.0, -0.0, 1.0, 9.9999999e-5, 1e-45, 1.17549435e-38, 3.4028235e38, -1e10, 16777216.0]
    tens = (10.0 ** np.arange(-44, 39)).astype(np.float32)
    values = np.concatenate(
        [
            bits,
            np.array(edges, np.float32),
            tens,
            np.nextafter(tens, 0),
            np.nextafter(tens, np.inf),
        ],
        dtype=np.float32,
    )
    values = values[np.isfinite(values)]
    sent = np.array(json.loads(json.dumps(nine_digits(values).tolist())), np.float32)
    assert sent.tobytes() == values.tobytes()


def test_nine_digits_are_at_most_nine() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for number in nine_digits(values).tolist():
        assert len(f"{number!r}".lstrip("-0.").replace(".", "").split("e")[0]) <= 9, number


def test_other_threads_get_a_turn_while_a_large_answer_is_written() -> None:
    matrix = np.random.default_rng(0).standard_normal((200, 5000)).astype(np.float32)
    rows, ended = rows_of(matrix), threading.Event()
    turns = 0

    def count() -> None:
        nonlocal turns
        while not ended.wait(0):
            turns += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = turns
        written = json.dumps(rows)
        during = turns - before
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert during > 100, "json's encoder kept the interpreter for many rows"
    assert np.array(json.loads(written), np.float32).tobytes() == matrix.tobytes()
