"""The answer in the shape that Cog publishes: exact numbers, plain values, quickly written."""

import asyncio
import base64
import gc
import json
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from e5.cog.output import Output, build_output
from e5.serving import Answer
from e5.vectors import encode_base64


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def an_output(encoding_format: str = "float") -> Output:
    answer = Answer(
        vectors=floats([1.5, -2.0], [0.25, 3.0]),
        scores=floats([42.5]),
        tokens=[7, 3],
        truncated=[False, True],
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
            value = [child for _, child in value.items()]
        if isinstance(value, list):
            for child in value:
                assert_plain(child)
        else:
            assert value is None or type(value) in (str, bool, int, float)

    assert_plain(an_output().model_dump())
    assert_plain(an_output("base64").model_dump())


def test_base64_replaces_the_numbers() -> None:
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
    answer = Answer(floats([1.0]), scores, [3], [False], "e5@0", metrics={})
    output = dict(Output.of(answer, encoding_format="float").model_dump().items())
    assert output["score"] == score
    assert output["scores"] == matrix


@pytest.mark.slow
def test_large_answers_in_numbers_are_handed_over_one_at_a_time() -> None:
    large = Answer(np.zeros((100, 1000), np.float32), floats([]), [], [], "e5@0", metrics={})
    small = Answer(floats([1.0]), floats([]), [], [], "e5@0", metrics={})

    async def story() -> None:
        large_outputs = asyncio.Semaphore(1)
        build = partial(build_output, large_outputs=large_outputs)
        first = await build(large, encoding_format="float")
        second = asyncio.create_task(build(large, encoding_format="float"))
        cancelled = asyncio.create_task(build(large, encoding_format="float"))
        await build(small, encoding_format="float")  # others do not wait for it
        await build(large, encoding_format="base64")
        assert not second.done()
        cancelled.cancel()
        written = first.model_dump()
        del first  # as Cog does once it has it as JSON
        gc.collect()
        assert (await second).model_dump().to_json() == written.to_json()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_vectors_whose_dimensions_were_truncated_are_written_too() -> None:
    """Rows of such a matrix are not contiguous, and orjson takes no such."""
    first_two = floats([1.5, -2.0, 9.0], [0.25, 3.0, 9.0])[:, :2]
    answer = Answer(first_two, floats([]), [], [], "e5@0", metrics={})
    written = Output.of(answer, encoding_format="float").model_dump().to_json()
    assert json.loads(written)["embeddings"] == [[1.5, -2.0], [0.25, 3.0]]
