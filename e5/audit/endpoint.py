"""A running endpoint of any make -> a sample of the audit's own texts.

Each text is asked for alone, one after another; then all of them together, in two orders. So it
shows whether a vector depends on what else is in its request. Nothing is sent anywhere else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from e5.audit.dialects import DIALECTS, Question, TextSide
from e5.audit.gathered import Gathered, GatheredRow, usable
from e5.audit.own_texts import OWN_TEXTS, OwnText
from e5.audit.sample import Sample, TextRole
from e5.client import JsonService, check_service_url
from e5.errors import InputError, ServiceError, quoted, shortened
from e5.prompts import E5_PROMPTS, Prompts, around_query
from e5.vectors import finish

STEADY = 0.999  # the least cosine of two vectors of one text; 16 bits keep 0.9995
SEPARATOR = " in "  # between a text's name and that of its batch
_MAX_NAMED = 3  # texts in a remark
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class EndpointAddress:
    """Where an endpoint is, and how to talk to it.

    Attributes:
        url: a base URL, or that of the route.
        dialect: a name in `DIALECTS`.
        model: the model's name; None to name none.
        query_name: what the endpoint calls queries: a model's name (openai, ollama), a prompt's
            name (tei), or a role. None for the dialect's word, or, in these three, which have none,
            to put the prompt into a query's text.
        key: in the header that the dialect has for it.
    """

    url: str
    dialect: str
    model: str | None = None
    query_name: str | None = None
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that cannot be used, and what cannot be a key, which is not shown."""
        if self.dialect not in DIALECTS:
            raise InputError("dialect", quoted(self.dialect), f"use one of {', '.join(DIALECTS)}")
        check_service_url(self.route_url)
        if self.key is not None and not _KEY.fullmatch(self.key):
            remedy = "use one line of ASCII, without spaces"
            raise InputError("api_key", "a value that cannot be a key", remedy)

    @property
    def route_url(self) -> str:
        """The URL of the dialect's route."""
        return DIALECTS[self.dialect].url(self.url, self.model)


class Endpoint:
    """An endpoint that is asked for vectors, for one event loop."""

    def __init__(self, address: EndpointAddress, *, task: str, prompts: Prompts) -> None:
        """Connects when it is first used.

        Args:
            address: where it is.
            task: of the queries.
            prompts: the checkpoint's, where the dialect has no roles.
        """
        dialect = DIALECTS[address.dialect]
        url = address.route_url
        named = re.search(r"/models/([^/:?]+):", url)
        self._dialect, self._address, self._task = dialect, address, task
        self._model = address.model or (named[1] if named else None)
        self._brings_prompt = not dialect.has_roles and address.query_name is None
        self._around_query = around_query(task, prompts)
        header, prefix = dialect.key_header
        if "/deployments/" in url:  # Azure's
            header, prefix = "api-key", ""
        headers = {} if address.key is None else {header: f"{prefix}{address.key}"}
        self._service = JsonService(url, headers)
        self.aclose = self._service.aclose

    async def vectors(self, texts: Sequence[OwnText]) -> list[Any]:
        """The vectors of texts in as few requests as their sides need, in whatever form they come.

        Raises:
            InputError, ServiceError: as `JsonService.post`; ServiceError for other answers.
        """
        sides: dict[TextSide, list[int]] = {}
        for i, text in enumerate(texts):
            sides.setdefault("document" if self._brings_prompt else text.side, []).append(i)
        found: list[Any] = [None] * len(texts)
        for side, positions in sides.items():
            sent = [self._text(texts[i]) for i in positions]
            for i, vector in zip(positions, await self._ask(sent, side), strict=True):
                found[i] = vector
        return found

    def _text(self, text: OwnText) -> str:
        before, after = self._around_query if self._brings_prompt else ("", "")
        return f"{before}{text.text}{after}" if text.side == "query" else text.text

    async def _ask(self, texts: Sequence[str], side: TextSide) -> list[Any]:
        query_name = self._address.query_name
        question = Question(texts, side, self._model, self._task, query_name)
        answer = await self._service.post(self._dialect.body(question))
        name = self._service.name
        try:
            vectors = self._dialect.vectors(answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            said = str(error) if isinstance(error, ValueError) else quoted(answer)
            sentence = f"{name}: an answer without vectors ({shortened(said, 200)}); "
            raise ServiceError(f"{sentence}check the URL and the dialect.") from error
        if len(vectors) != len(texts):
            sentence = f"{name}: {len(vectors)} vectors for {len(texts)} texts; "
            raise ServiceError(f"{sentence}no client can tell whose they are.")
        return vectors


async def sample_endpoint(
    address: EndpointAddress,
    *,
    task: str,
    prompts: Prompts = E5_PROMPTS,
    count: int = len(OWN_TEXTS),
    role: TextRole = "auto",
) -> Gathered:
    """The vectors that an endpoint gives of the audit's own texts, sent alone and in a batch.

    Args:
        address: where the endpoint is, and how to talk to it.
        task: of the queries.
        prompts: the checkpoint's.
        count: of texts, at most.
        role: `query` or `document` for only these texts.

    Raises:
        InputError: for an address or a key that is wrong.
        ServiceError: if the endpoint does not answer, or refuses every text.
    """
    texts = [text for text in OWN_TEXTS if role in ("auto", text.side)][:count]
    endpoint = Endpoint(address, task=task, prompts=prompts)
    try:
        with tqdm(total=3 * len(texts), desc="asking", unit="text", delay=2, disable=None) as bar:
            rows = await _alone(endpoint, texts, bar.update)
            asked = [i for i, row in enumerate(rows) if not row.problem]
            batches = [("a batch", asked), ("the reversed batch", asked[::-1])]
            remarks = list[str]()
            for batch, order in batches if len(asked) > 1 else ():
                sent = [texts[i] for i in order]
                vectors, remark = await _together(endpoint, sent, bar.update)
                rows += map(partial(_row, suffix=SEPARATOR + batch), sent, vectors)
                remarks += [] if remark is None or remark in remarks else [remark]
    finally:
        await endpoint.aclose()
    sample, left_out = usable(rows)
    alone, batched, unsteady = _compare(sample)
    return Gathered(
        _selected(sample, alone),
        left_out,
        [*remarks, *unsteady],
        task,
        _selected(sample, batched) if unsteady else None,
    )


def _selected(sample: Sample, rows: Sequence[int]) -> Sample:
    """Some rows of a sample, under their texts' names."""
    names = [sample.ids[row].partition(SEPARATOR)[0] for row in rows]
    texts, roles = [sample.texts[row] for row in rows], [sample.roles[row] for row in rows]
    return Sample(names, texts, sample.vectors[rows], roles)


async def _alone(
    endpoint: Endpoint, texts: Sequence[OwnText], update: Callable[[int], object]
) -> list[GatheredRow]:
    """The row of each text, sent alone; one after another, so that no engine puts two together."""
    rows = list[GatheredRow]()
    refusals = list[ServiceError]()
    for text in texts:
        try:
            rows += map(_row, [text], await endpoint.vectors([text]))
        except ServiceError as error:
            if error.cause != "other":
                raise
            refusals.append(error)
            rows.append(GatheredRow(text.name, text.text, text.side, None, str(error)))
        update(1)
    if len(refusals) == len(texts):
        raise refusals[0]
    return rows


async def _together(
    endpoint: Endpoint, texts: Sequence[OwnText], update: Callable[[int], object]
) -> tuple[list[Any], str | None]:
    """The vectors of texts in one request, or in as few as the endpoint takes; and a remark.

    There are no vectors if it takes only one text at a time.
    """
    size, refusal = len(texts), None
    while size > 1:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        try:
            found = [vector for part in parts for vector in await endpoint.vectors(part)]
        except ServiceError as error:
            if error.cause != "other":
                raise
            refusal, size = refusal or error, -(-size // 2)
        else:
            update(len(texts))
            limit = f"the endpoint takes {size} texts in a request, and no more: {refusal}"
            return found, None if refusal is None else limit
    return [], f"the endpoint takes one text in a request, and no more: {refusal}"


def _row(text: OwnText, vector: Any, suffix: str = "") -> GatheredRow:
    return GatheredRow(f"{text.name}{suffix}", text.text, text.side, vector)


def _compare(sample: Sample) -> tuple[list[int], list[int], list[str]]:
    """The rows of texts that were sent alone; those of a batch; what to say if they differ.

    A batch's row stands for a text only if its vector differs from that of the text alone.
    """
    units = finish(sample.vectors, None, normalize=True)
    cosines = units @ units.T
    alone, batched = dict[tuple[str, TextRole], int](), dict[tuple[str, TextRole], int]()
    different, moved = list[int](), 0
    for i, text in enumerate(zip(sample.texts, sample.roles, strict=True)):
        first = alone.setdefault(text, i)
        is_same = np.array_equal(sample.vectors[i], sample.vectors[first], equal_nan=True)
        if not (is_same or cosines[i, first] >= STEADY):
            batched.setdefault(text, i)
            different.append(i)
            moved += max(cosines[i, other] for other in alone.values()) >= STEADY
    remarks = list[str]()
    if different:
        names = ", ".join(sample.ids[i] for i in different[:_MAX_NAMED])
        more = ", ..." if len(different) > _MAX_NAMED else ""
        sentence = f"{len(different)} of {len(sample.ids) - len(alone)} vectors"
        remarks = [f"{sentence} differ from those of the same texts alone: {names}{more}"]
    if moved:
        remarks.append(f"{moved} of them belong to other texts: the answer has another order")
    return list(alone.values()), list((alone | batched).values()), remarks
