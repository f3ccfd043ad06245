"""The table of models: each is pinned."""

import re
from pathlib import Path

from e5.cli.hub_models import E5, MODELS
from e5.prompts import is_template
from e5.settings import Settings

PINNED = MODELS[E5]


def test_the_known_checksums_are_those_of_the_model() -> None:
    assert len(PINNED.checksums) == 2
    for digest in PINNED.checksums.values():
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_the_repository_and_its_revision_are_pinned() -> None:
    assert PINNED.repository == "intfloat/e5-mistral-7b-instruct"
    assert PINNED.revision == "07163b72af1488142a360786df853f237b1a3ca1"
    assert Path(Settings.weights) == Path("weights") / E5
    assert list(MODELS)[1:] == [
        "SFR-Embedding-Mistral",
        "Linq-Embed-Mistral",
        "Zeta-Alpha-E5-Mistral",
    ]
    for model in MODELS.values():
        assert re.fullmatch("[0-9a-f]{40}", str(model.revision))
        assert is_template(str(model.template))
