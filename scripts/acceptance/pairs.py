"""An mteb task that needs no network: sentence pairs and their similarity, from 0 to 5.

The pairs were written for this project. The score of the built-in checkpoint is known, so the task
shows whether mteb, the adapter and the service still work together.
"""

import importlib
from typing import Any

from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

PAIRS = [
    ("A man plays the guitar.", "A man is playing a guitar.", 5.0),
    ("A dog runs along the beach.", "A dog is running by the sea.", 4.2),
    ("The train to Berlin is late.", "The train for Berlin has a delay.", 4.8),
    ("She bought a red car.", "She bought a blue car.", 2.6),
    ("Children play football in the park.", "Kids are playing soccer outside.", 4.3),
    ("The bank raised its interest rates.", "Interest rates were raised by the bank.", 5.0),
    ("He cooks pasta for dinner.", "He is writing a letter.", 0.3),
    ("It rains heavily in the mountains.", "There is heavy rain in the hills.", 4.4),
    ("The doctor treated the patient.", "The patient treated the doctor.", 2.4),
    ("Water boils at one hundred degrees.", "Ice melts at zero degrees.", 1.8),
    ("A woman reads a book on the train.", "A woman reads on her way to work.", 3.1),
    ("The museum opens at nine.", "The museum closes at nine.", 2.2),
    ("Two people walk across a bridge.", "A pair of people crosses a bridge.", 4.7),
    ("The company fired its director.", "The director lost his job.", 3.8),
    ("Cats sleep most of the day.", "The stock market fell today.", 0.0),
    ("The library lends films too.", "You can also borrow films at the library.", 4.8),
    ("He lost his keys at the station.", "At the station he lost his wallet.", 2.9),
    ("Snow fell all night.", "It was snowing through the night.", 4.9),
    ("The bridge was built in 1890.", "The tower was built in 1925.", 1.5),
    ("Bees make honey from nectar.", "Honey is made by bees.", 4.3),
    ("The recipe needs three eggs.", "The football match ended in a rng.", 0.1),
    ("A plane lands at the airport.", "An aircraft is landing.", 4.1),
    ("The river is deep here.", "The lake is shallow there.", 1.6),
    ("I like coffee more than tea.", "I prefer coffee to tea.", 5.0),
    ("I like coffee more than tea.", "I prefer tea to coffee.", 2.3),
    ("The phone needs a new battery.", "The battery of the phone must be replaced.", 4.8),
    ("A farmer sells apples.", "A teacher explains grammar.", 0.4),
    ("Smoking is forbidden here.", "You may not smoke in this place.", 4.8),
    ("The film was long and dull.", "The movie was boring.", 3.7),
    ("They sail around the world.", "They repair a roof.", 0.2),
]


class LocalPairs(AbsTaskSTS):
    """The pairs as an STS task, whose score is Spearman's rank correlation."""

    metadata = TaskMetadata(
        name="LocalPairs",
        description="Sentence pairs of this project.",
        dataset={"path": "local", "revision": "1"},
        type="STS",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )
    min_score, max_score = 0, 5

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Make the data set from the pairs; nothing is fetched."""
        datasets: Any = importlib.import_module("datasets")  # mteb needs it; it has no types

        columns = dict(
            zip(
                ("sentence1", "sentence2", "score"),
                map(list, zip(*PAIRS, strict=True)),
                strict=True,
            )
        )
        self.dataset = {"test": datasets.Dataset.from_dict(columns)}
        self.data_loaded = True
