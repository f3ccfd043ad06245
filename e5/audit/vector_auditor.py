"""One vector of one text -> a verdict, for those who serve others: one after another, in a thread.

It costs a few forwards beside those of the service, and no memory but the model's that is loaded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from typing import Any, get_args

from e5.audit.sample import Sample, TextRole
from e5.audit.vector_source import VectorSource
from e5.audit.vector_values import read_vectors
from e5.audit.verdict import audit
from e5.errors import InputError, quoted
from e5.prompts import DEFAULT_TASK
from e5.texts import check_text

MAX_AUDITED = 10_000  # characters of a text; it is computed under every hypothesis


class VectorAuditor:
    """Judges one vector at a time, as the gateway's `Auditor`."""

    def __init__(self, make_source: Callable[[], VectorSource]) -> None:
        """Make a source when the first vector comes."""
        self._make_source = cache(make_source)
        self._executor = ThreadPoolExecutor(1, "audit")

    async def judge(self, text: str, vector: object, role: str, task: str | None) -> dict[str, Any]:
        """The verdict on a text's vector: the attributes of an `AuditReport`.

        Args:
            text: as it was embedded, without a prompt.
            vector: its numbers, in any form that `read_vectors` knows.
            role: `query`, `document` or `auto`.
            task: of a query; None for web search.

        Raises:
            InputError: naming what is wrong.
        """
        check_text(text, "text")
        if len(text) > MAX_AUDITED:
            remedy = f"send at most {MAX_AUDITED}"
            raise InputError("text", f"{len(text)} characters", remedy)
        if role not in get_args(TextRole):
            raise InputError("role", quoted(role), "use query, document or auto")
        vectors, problems = read_vectors([vector])
        if problems:
            raise InputError("vector", problems[0], "send its numbers")
        sample = Sample(["vector"], [text], vectors, [role])  # type: ignore[list-item]
        work = partial(self._audit, sample, DEFAULT_TASK if task is None else task)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _audit(self, sample: Sample, task: str) -> dict[str, Any]:
        source = self._make_source()
        try:
            return asdict(audit(sample, source, task=task, progress=False))
        finally:
            source.forget()
