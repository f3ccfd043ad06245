"""Token ids of texts, and texts of token ids, for clients that count before they send.

text-embeddings-inference, Cohere, vLLM and Google have a form of it each; the name of the field
with the text tells them apart. The ids are those that the model reads: `<s>` first, `</s>` last,
and the prompt before the text where a role or the model's name asks for one.
"""

import asyncio
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainValidator
from typing_extensions import TypedDict

from e5.errors import InputError, quoted
from e5.gateway import wire
from e5.gateway.backend import Backend
from e5.gateway.google import Content
from e5.gateway.refusals import ErrorStyle
from e5.gateway.roles import prompt_for
from e5.gateway.wire import MAX_TEXTS, InformationRequest, RouteContext, named_texts
from e5.gateway.written_prompts import find_prompts
from e5.prompts import resolve_task
from e5.texts import check_unicode
from e5.validation import wrong_value

if TYPE_CHECKING:
    from e5.tokenizer import AllTokens, Tokenizer

# The texts of one request, in NFKD as UTF-8: a text has hardly more tokens than such bytes.
MAX_BYTES = 1_000_000


def _list_of_ids(value: object) -> object:
    if not isinstance(value, list):
        raise wrong_value(quoted(value), "send a list of token ids")
    return value


_Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]  # blank ones too
TokenList: TypeAlias = Annotated[
    list[Any], PlainValidator(_list_of_ids, json_schema_input_type=list[int])
]
TokenLists: TypeAlias = Annotated[
    list[Any], PlainValidator(_list_of_ids, json_schema_input_type=list[int] | list[list[int]])
]
TextToken = TypedDict(
    "TextToken",
    {"id": int, "text": str, "special": bool, "start": int | None, "stop": int | None},
)
TextTokensAnswer: TypeAlias = list[list[TextToken]]
DecodeAnswer: TypeAlias = list[str]
TokenizeAnswer = TypedDict("TokenizeAnswer", {"tokens": list[int]})
DetokenizeAnswer = TypedDict("DetokenizeAnswer", {"text": str, "prompt": str})
CountTokensAnswer = TypedDict("CountTokensAnswer", {"totalTokens": int})


class TokenizeOptions(InformationRequest):
    """The options beside texts to tokenise."""

    model: str | None = None
    prompt_name: wire.Role = None
    add_special_tokens: bool | None = None

    async def tokens_of(
        self, texts: Sequence[Any], fields: Sequence[str], context: RouteContext, backend: Backend
    ) -> "list[tuple[str, AllTokens]]":
        """Each text as the model reads it, with its prompt, and its tokens.

        Raises:
            InputError: naming the text that cannot be tokenised, or the field that is too long.
            RefusalError: 404 for a model that is not served, or without a tokenizer.
        """
        _, suffix = context.resolve_model(self.model)
        prompt = prompt_for({"prompt_name": self.prompt_name}, suffix)
        reader = await backend.tokenizer()

        def tokenize() -> "list[tuple[str, AllTokens]]":
            checked = [check_unicode(text, name) for text, name in zip(texts, fields, strict=True)]
            num_bytes = sum(len(unicodedata.normalize("NFKD", text).encode()) for text in checked)
            if num_bytes > MAX_BYTES:
                received, remedy = f"{num_bytes} bytes", f"send at most {MAX_BYTES} in one request"
                raise InputError(fields[0].partition("[")[0], received, remedy)
            # As for embedding: see `ClientRequest.service_call`.
            prompted = range(len(checked) if prompt.prompted else 0)
            found, task = find_prompts(checked, prompted), resolve_task(prompt.task).instruction
            queries = {*prompted} - {*found.own, *found.unlike}
            as_read: list[str] = []
            for i, text in enumerate(found.texts):
                sides = ([text], []) if i in queries else ([], [text])
                as_read += reader.with_prompts(*sides, task=task)
            return [(text, reader.tokenizer.all_tokens(text)) for text in as_read]

        return await asyncio.to_thread(tokenize)

    def requested(self, tokens: Any) -> Any:
        """A list or an array with one element a token, without both ends if the request says so."""
        return tokens[1:-1] if self.add_special_tokens is False else tokens


class TokenizeTextsRequest(TokenizeOptions):
    """Texts to tokenise, as clients of text-embeddings-inference send them."""

    error_style: ClassVar[ErrorStyle | None] = "tei"
    inputs: Annotated[
        str | list[Any],
        PlainValidator(wire.one_or_more_texts, json_schema_input_type=str | _Texts),
    ]

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`. Positions are those of bytes, as they are there."""
        texts, fields = named_texts(self.inputs, "inputs")
        tokenized = await self.tokens_of(texts, fields, context, backend)
        with_ends = self.add_special_tokens is not False
        # Lazily: there may be a million, and each of them becomes an object.
        return [_text_tokens(text, tokens, with_ends) for text, tokens in tokenized]


class TokenizeTextRequest(TokenizeOptions):
    """A text to tokenise, as Cohere's clients send it."""

    text: str

    fits = staticmethod(lambda body: body.get("text") is not None)

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        [(_, tokens)] = await self.tokens_of([self.text], ["text"], context, backend)
        return {
            "tokens": self.requested(tokens.ids),
            "token_strings": self.requested(tokens.pieces),
            "meta": {"api_version": {"version": "1"}},
        }


class TokenizePromptRequest(TokenizeOptions):
    """A text to tokenise, as clients of vLLM send it."""

    prompt: str
    return_token_strs: bool | None = None

    fits = staticmethod(lambda body: body.get("prompt") is not None)

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        [(_, tokens)] = await self.tokens_of([self.prompt], ["prompt"], context, backend)
        ids = self.requested(tokens.ids)
        return {
            "count": len(ids),
            "max_model_len": (await backend.info()).max_length,
            "tokens": ids,
            "token_strs": self.requested(tokens.pieces) if self.return_token_strs else None,
        }


class CountTokensRequest(TokenizeOptions):
    """Texts whose tokens are counted, as Google's clients send them."""

    contents: Annotated[list[Content], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        texts = [content.text for content in self.contents]
        fields = [f"contents[{i}].parts" for i in range(len(texts))]
        tokenized = await self.tokens_of(texts, fields, context, backend)
        return {"totalTokens": sum(len(tokens.ids) for _, tokens in tokenized)}


class DecodeOptions(InformationRequest):
    """The options beside token ids."""

    model: str | None = None
    skip_special_tokens: bool | None = None

    async def texts_of(
        self, lists: Sequence[Any], fields: Sequence[str], context: RouteContext, backend: Backend
    ) -> list[str]:
        """The text of each list of token ids. Raises as `TokenizeOptions.tokens_of`."""
        context.resolve_model(self.model)
        tokenizer = (await backend.tokenizer()).tokenizer
        skip = self.skip_special_tokens is not False

        def decode() -> list[str]:
            for ids, field in zip(lists, fields, strict=True):
                _check_ids(ids, field, tokenizer)
            return [tokenizer.decode(ids, skip_special_tokens=skip) for ids in lists]

        return await asyncio.to_thread(decode)


class DecodeRequest(DecodeOptions):
    """Token ids to decode, as clients of text-embeddings-inference send them."""

    ids: TokenLists

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`."""
        if not self.ids:
            raise InputError("ids", "no token id", "send at least one")
        if isinstance(self.ids[0], list):
            fields = [f"ids[{i}]" for i in range(len(self.ids))]
            return await self.texts_of(self.ids, fields, context, backend)
        return await self.texts_of([self.ids], ["ids"], context, backend)


class DetokenizeRequest(DecodeOptions):
    """Token ids to decode, as clients of Cohere and of vLLM send them."""

    tokens: TokenList

    async def information(self, context: RouteContext, backend: Backend) -> Any:
        """See `InformationRequest.information`. Cohere's clients read `text`, vLLM's `prompt`."""
        [text] = await self.texts_of([self.tokens], ["tokens"], context, backend)
        return {"text": text, "prompt": text}


def _text_tokens(text: str, tokens: "AllTokens", with_ends: bool) -> Iterator[dict[str, Any]]:
    """The tokens of a text, each with its part of the text."""
    first, *ids, last = tokens.ids.tolist()
    no_span = {"start": None, "stop": None}
    begins = _byte_positions(text)
    if with_ends:
        yield {"id": first, "text": tokens.pieces[0], "special": True, **no_span}
    for token_id, piece, (start, stop) in zip(ids, tokens.pieces[1:-1], tokens.spans, strict=True):
        # Tokens of single bytes have the whole word as their span, each of them the same one.
        part = piece if piece.startswith("<0x") else text[start:stop]
        span = {"start": int(begins[start]), "stop": int(begins[stop])}
        yield {"id": token_id, "text": part, "special": False, **span}
    if with_ends:
        yield {"id": last, "text": tokens.pieces[-1], "special": True, **no_span}


def _byte_positions(text: str) -> NDArray[np.int64]:
    """The position of each character, and of the end, in UTF-8."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate(([0], np.cumsum(sizes)))


def _check_ids(ids: object, field: str, tokenizer: "Tokenizer") -> None:
    if not isinstance(ids, list):
        raise InputError(field, quoted(ids), "send a list of token ids, as the first one")
    for i, token_id in enumerate(ids):
        if type(token_id) is not int or not 0 <= token_id < tokenizer.vocab_size:
            remedy = f"send token ids from 0 to {tokenizer.vocab_size - 1}"
            raise InputError(f"{field}[{i}]", quoted(token_id), remedy)
