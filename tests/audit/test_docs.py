"""docs/audit.md names every verdict, and says what to do about it."""

import re

from server import ROOT

from e5.audit.advice import ADVICE
from e5.audit.hypotheses import HYPOTHESES


def test_the_docs_name_every_verdict() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    names = {hypothesis.name for hypothesis in HYPOTHESES} | set(ADVICE)
    assert not [name for name in names if not re.search(rf"`{name}( N| NAME)?`", page)]
