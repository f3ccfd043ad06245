"""The texts of the benchmarks, by workload."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.texts import english_words
from e5.prompts import DEFAULT_TASK, query_prompt


@dataclass(frozen=True)
class Workload:
    """Texts that are embedded in one call: queries of the default task, and documents."""

    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()

    @property
    def with_prompts(self) -> list[str]:
        """The texts as the model reads them, for systems that have no tasks."""
        return [*(query_prompt(DEFAULT_TASK, query) for query in self.queries), *self.documents]


def workloads_of(count_tokens: Callable[[str], int]) -> dict[str, Workload]:
    """Make the workloads by name; where a name has a length, it is in tokens.

    Args:
        count_tokens: returns the number of tokens of a document.
    """
    rng = random.Random(0)
    words = english_words()

    def text(num_words: int) -> str:
        return " ".join(rng.choices(words, k=num_words))

    def of_tokens(num_texts: int, num_tokens: int) -> Workload:
        documents = [
            text(int(num_tokens**2 / count_tokens(text(num_tokens)))) for _ in range(num_texts)
        ]
        return Workload(documents=tuple(documents))

    def query() -> str:
        return text(rng.randint(5, 12))

    def lognormal() -> str:
        return text(int(rng.lognormvariate(math.log(37), 0.7)) + 1)

    # Padding costs as much as the longest text exceeds the mean: 2 to 5 times, which varies by rng.
    draws = {
        f"32 documents of lognormal length (draw {i})": Workload(
            documents=tuple(lognormal() for _ in range(32))
        )
        for i in range(1, 5)
    }
    return {
        "one pair": Workload((query(),), (text(30),)),
        "32 queries": Workload(tuple(query() for _ in range(32))),
        **draws,
        "16 documents of 64": of_tokens(16, 64),
        "8 documents of 256": of_tokens(8, 256),
        "4 documents of 512": of_tokens(4, 512),
        "1 document of 2048": of_tokens(1, 2048),
        "1 document of 4096": of_tokens(1, 4096),
    }
