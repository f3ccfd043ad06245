"""Token ids are sentencepiece's, whatever library saved the file and whatever the text holds."""

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import tokenizers
from checkpoints import Style, ground_truth, save_tokenizer, true_ids
from hypothesis import example, given
from hypothesis import strategies as st

from e5.errors import TokenizerError
from e5.tokenizer import MISTRAL_GOLDENS, MISTRAL_VOCAB_SIZE, Tokenizer

PARIS = "The capital of France is Paris"
LONG = 1_000_000  # a max_length that cuts nothing here
STYLES: tuple[Style, ...] = get_args(Style)

AWKWARD = {
    "empty": "",
    "one character": "a",
    "one space": " ",
    "many spaces": " " * 37 + "a" + " " * 5 + "b" + " " * 9,
    "newlines": "\n\n a\r\nb\n",
    "emoji": "👩‍👩‍👧 and 🏳️‍🌈 🙂",
    "right to left": "שלום עולם، مرحبا بالعالم",
    "combining marks": "e\u0301 n\u0303 \u0301alone Z\u0351\u0343\u036b",
    "NUL": "\x00a\x00",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u200b\u2028\ufeff",
    "beyond the BMP": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀 \U0010ffff",
    "composed and decomposed": "\u00c5 A\u030a \u212b ﬁ ㍿",
    "begin token": "<s>",
    "end token": "</s>",
    "end token inside": "a</s>b </s> <s></s>",
    "unknown token": "x <unk>y",
    "byte token": "<0x0A> <0x00>",
    "space symbol": "▁ a▁b ▁▁",
    "all at once": " <s>▁<unk></s>\n<0x0A>\x00🙂 ",
    "100 kB of one word": "pneumono" * 12_500,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Style, Path]:
    """tokenizer.json as the hub has it, as transformers 4 saves it and as transformers 5 does."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for style in STYLES:
        save_tokenizer(folder / style, style)
    return {style: folder / style / "tokenizer.json" for style in STYLES}


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest, files: dict[Style, Path]) -> Tokenizer:
    """Cuts nothing."""
    return Tokenizer(files[request.param], max_length=LONG)


@pytest.fixture(scope="module")
def hub_tokenizer(files: dict[Style, Path]) -> Tokenizer:
    """The hub's, cutting nothing."""
    return Tokenizer(files["hub"], max_length=LONG)


def altered(file: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a tokenizer.json with some of its top-level entries replaced."""
    target = folder / "tokenizer.json"
    target.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


def ids_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tokenizer.encode([text])[0].token_ids


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_awkward_strings_get_sentencepiece_ids(tokenizer: Tokenizer, text: str) -> None:
    assert ids_of(tokenizer, text) == true_ids(text, LONG)


PIECES = st.sampled_from(["<s>", "</s>", "<unk>", "▁", " ", "  ", "\n", "\x00", "<0x41>", "the"])
TEXTS = st.lists(PIECES | st.text(max_size=20), max_size=8).map("".join)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
@example(texts=["", "", "a"])
def test_any_text_gets_sentencepiece_ids_in_any_batch(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    expected = [true_ids(text, LONG) for text in texts]
    assert [each.token_ids for each in tokenizer.encode(texts)] == expected


@given(text=TEXTS, max_length=st.integers(3, 40))
@example(text="word " * 60, max_length=3)
@example(text=PARIS, max_length=8)
@example(text=PARIS, max_length=7)
def test_truncation_keeps_both_ends_and_is_reported(
    hub_tokenizer: Tokenizer, text: str, max_length: int
) -> None:
    whole = true_ids(text, LONG)
    hub_tokenizer.max_length = max_length
    try:
        tokenized = hub_tokenizer.encode([text])[0]
    finally:
        hub_tokenizer.max_length = LONG
    assert tokenized.token_ids == true_ids(text, max_length)
    assert len(tokenized.token_ids) <= max_length
    assert tokenized.token_ids[0] == 1
    assert tokenized.token_ids[-1] == 2
    assert min(len(whole), max_length + 1) <= tokenized.num_tokens <= len(whole)
    assert tokenized.truncated == (len(whole) > max_length)


class TestAllTokens:
    @pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
    def test_they_are_those_that_the_model_reads(self, tokenizer: Tokenizer, text: str) -> None:
        found = tokenizer.all_tokens(text)
        assert tuple(found.ids.tolist()) == tokenizer.encode([text])[0].token_ids
        assert len(found.pieces) == len(found.ids) == len(found.spans) + 2 == tokenizer.count(text)
        assert [ground_truth().id_to_piece(int(i)) for i in found.ids] == list(found.pieces)

    def test_none_is_missing_of_a_long_text(self, files: dict[Style, Path]) -> None:
        short = Tokenizer(files["hub"], max_length=4)
        assert tuple(short.all_tokens(PARIS).ids.tolist()) == MISTRAL_GOLDENS[PARIS]

    def test_a_span_is_where_a_token_comes_from(self, tokenizer: Tokenizer) -> None:
        found = tokenizer.all_tokens("Snow, 雪 falls")
        parts = ["Snow, 雪 falls"[start:stop] for start, stop in found.spans]
        assert "".join(parts).replace(" ", "") == "Snow,雪falls"

    @pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
    def test_they_can_be_decoded(self, tokenizer: Tokenizer, text: str) -> None:
        ids = tokenizer.all_tokens(text).ids.tolist()
        assert tokenizer.decode(ids) == ground_truth().decode(ids)
        if "▁" not in text:  # sentencepiece's sign for a space
            assert tokenizer.decode(ids) == text

    def test_special_tokens_are_shown_if_asked(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode([1, 6312, 28709, 2], skip_special_tokens=False) == "<s> hello</s>"


def test_no_texts_give_no_token_ids(hub_tokenizer: Tokenizer) -> None:
    assert hub_tokenizer.encode([]) == []


class TestTraps:
    """Each first shows that the trap lies there in the plain library, then that we step over it."""

    def test_the_end_token_is_added_where_the_file_does_not(self, files: dict[Style, Path]) -> None:
        plain = tokenizers.Tokenizer.from_file(str(files["hub"]))
        assert plain.encode(PARIS).ids == [1, 415, 5565, 302, 4843, 349, 5465]
        ours = Tokenizer(files["hub"], max_length=LONG)
        assert ids_of(ours, PARIS) == (1, 415, 5565, 302, 4843, 349, 5465, 2)

    def test_the_end_token_is_not_doubled_where_the_file_adds_it(
        self, files: dict[Style, Path]
    ) -> None:
        plain = tokenizers.Tokenizer.from_file(str(files["transformers4"]))
        assert plain.encode(PARIS).ids[-1] == 2
        ours = Tokenizer(files["transformers4"], max_length=LONG)
        assert ids_of(ours, PARIS) == (1, 415, 5565, 302, 4843, 349, 5465, 2)

    @pytest.mark.parametrize("text", ["a</s>b", "<s>a", "</s>", "x<unk>"])
    def test_control_tokens_in_a_text_are_text(self, files: dict[Style, Path], text: str) -> None:
        plain = tokenizers.Tokenizer.from_file(str(files["hub"]))
        assert {0, 1, 2} & set(plain.encode(text, add_special_tokens=False).ids)
        body = ids_of(Tokenizer(files["hub"], max_length=LONG), text)[1:-1]
        assert not {0, 1, 2} & set(body)
        assert list(body) == ground_truth().encode(text)

    def test_padding_saved_in_the_file_does_not_matter(
        self, files: dict[Style, Path], tmp_path: Path
    ) -> None:
        plain = tokenizers.Tokenizer.from_file(str(files["hub"]))
        plain.enable_padding(pad_id=2, pad_token="</s>", length=32)
        plain.save(str(tmp_path / "tokenizer.json"))
        assert (
            len(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a")) == 32
        )
        ours = Tokenizer(tmp_path / "tokenizer.json", max_length=LONG)
        tokenized = ours.encode(["a", PARIS])
        assert [e.token_ids for e in tokenized] == [true_ids("a"), true_ids(PARIS)]
        assert [e.num_tokens for e in tokenized] == [3, 8]

    def test_truncation_saved_in_the_file_does_not_matter(
        self, files: dict[Style, Path], tmp_path: Path
    ) -> None:
        plain = tokenizers.Tokenizer.from_file(str(files["hub"]))
        plain.enable_truncation(4)
        plain.save(str(tmp_path / "tokenizer.json"))
        ours = Tokenizer(tmp_path / "tokenizer.json", max_length=LONG)
        assert ids_of(ours, PARIS) == true_ids(PARIS)
        assert ours.encode([PARIS])[0].num_tokens == 8

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"normalizer": None},
            {
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Metaspace",
                    "replacement": "▁",
                    "prepend_scheme": "never",
                    "split": False,
                },
            },
            {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}},
            {"normalizer": {"type": "NFKC"}, "pre_tokenizer": {"type": "Whitespace"}},
        ],
        ids=[
            "no normalizer",
            "metaspace that prepends nothing",
            "only replace",
            "another library's",
        ],
    )
    def test_the_leading_space_symbol_survives_a_file_that_drops_it(
        self, files: dict[Style, Path], tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        file = altered(files["hub"], tmp_path, **changes)
        plain = tokenizers.Tokenizer.from_file(str(file))
        assert plain.encode("hello", add_special_tokens=False).ids != [6312, 28709]
        ours = Tokenizer(file, max_length=LONG)
        assert ids_of(ours, "hello") == (1, 6312, 28709, 2)
        assert ids_of(ours, AWKWARD["many spaces"]) == true_ids(AWKWARD["many spaces"])


class TestCheck:
    """A tokenizer that gives other ids than the model was trained on is refused."""

    def test_the_goldens_are_sentencepieces(self) -> None:
        assert dict(MISTRAL_GOLDENS) == {text: true_ids(text) for text in MISTRAL_GOLDENS}
        assert ground_truth().get_piece_size() == MISTRAL_VOCAB_SIZE

    def test_every_good_file_passes(self, tokenizer: Tokenizer) -> None:
        tokenizer.check(MISTRAL_GOLDENS)

    def test_two_swapped_words_are_noticed(self, files: dict[Style, Path], tmp_path: Path) -> None:
        model = json.loads(files["hub"].read_text())["model"]
        vocab = model["vocab"]
        vocab["▁Paris"], vocab["▁London"] = vocab["▁London"], vocab["▁Paris"]
        damaged = Tokenizer(altered(files["hub"], tmp_path, model=model), max_length=LONG)
        with pytest.raises(TokenizerError, match=r"'The capital of France is Paris' into \[1, 415"):
            damaged.check(MISTRAL_GOLDENS)

    def test_lost_merges_are_noticed(self, files: dict[Style, Path], tmp_path: Path) -> None:
        model = json.loads(files["hub"].read_text())["model"]
        model["merges"] = model["merges"][: len(model["merges"]) // 2]
        damaged = Tokenizer(altered(files["hub"], tmp_path, model=model), max_length=LONG)
        with pytest.raises(TokenizerError, match=r"restore the checkpoint's own tokenizer\.json"):
            damaged.check(MISTRAL_GOLDENS)

    @pytest.mark.slow
    def test_lost_byte_fallback_is_noticed(self, files: dict[Style, Path], tmp_path: Path) -> None:
        model = json.loads(files["hub"].read_text())["model"] | {"byte_fallback": False}
        damaged = Tokenizer(altered(files["hub"], tmp_path, model=model), max_length=LONG)
        with pytest.raises(TokenizerError):
            damaged.check(MISTRAL_GOLDENS)

    @pytest.mark.parametrize("content", ["", "{}", "not json"])
    def test_a_file_that_is_no_tokenizer_is_refused(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "tokenizer.json"
        file.write_text(content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a readable tokenizer"):
            Tokenizer(file, max_length=LONG)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match="not a readable tokenizer"):
            Tokenizer(tmp_path / "tokenizer.json", max_length=LONG)

    def test_a_tokenizer_without_control_tokens_is_refused(self, tmp_path: Path) -> None:
        model = tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
        tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(TokenizerError, match="has no <s> token"):
            Tokenizer(tmp_path / "tokenizer.json", max_length=LONG)

    def test_words_added_to_the_vocabulary_are_refused(
        self, files: dict[Style, Path], tmp_path: Path
    ) -> None:
        """They would be cut out of a text before the model's own pieces are tried."""
        raw = tokenizers.Tokenizer.from_file(str(files["hub"]))
        raw.add_tokens(["hello"])
        raw.save(str(tmp_path / "added.json"))
        with pytest.raises(TokenizerError, match=r"added tokens that are not special.*'hello'"):
            Tokenizer(tmp_path / "added.json", max_length=LONG)

    @pytest.mark.parametrize("max_length", [3, 5, 10])
    def test_goldens_hold_for_a_short_max_length(
        self, files: dict[Style, Path], max_length: int
    ) -> None:
        Tokenizer(files["hub"], max_length=max_length).check(MISTRAL_GOLDENS)


@cache
def loaded(file: Path) -> Tokenizer:
    """One whose `max_length` may be changed."""
    return Tokenizer(file, max_length=LONG)


class TestLongTexts:
    """Only the beginning of a long text is tokenised, and no id shows it."""

    WORDS = st.sampled_from(
        [
            "snow",
            " ",
            "  ",
            "\n",
            "e\u0301",
            "雪が降る",
            "🙂",
            "aaaaaaaa",
            " 7",
            "\x00",
            "▁",
            " The ",
            "ß",
        ]
    )
    MINI = Path(__file__).parent.parent / "weights/e5-mini/tokenizer.json"

    @given(words=st.lists(WORDS | st.text(max_size=9), max_size=120), max_length=st.integers(3, 20))
    @pytest.mark.parametrize("name", ["mistral", "mini"])
    def test_the_ids_are_those_of_the_whole(
        self, name: str, words: list[str], max_length: int, files: dict[Style, Path]
    ) -> None:
        tokenizer, text = loaded({"mistral": files["hub"], "mini": self.MINI}[name]), "".join(words)
        tokenizer.max_length = LONG
        (expected,) = tokenizer.encode([text])
        tokenizer.max_length = max_length
        (found,) = tokenizer.encode([text])
        assert found.token_ids[:-1] == expected.token_ids[:-1][: max_length - 1]
        assert found.truncated == (len(expected.token_ids) > max_length)
        assert found.num_tokens <= expected.num_tokens == tokenizer.count(text)

    @pytest.mark.parametrize("name", ["mistral", "mini"])
    @pytest.mark.parametrize("text", ["snow falls in winter. ", "雪が降る。", "ab-1 "])
    def test_little_more_than_what_is_kept_is_read(
        self, name: str, text: str, files: dict[Style, Path]
    ) -> None:
        tokenizer = Tokenizer({"mistral": files["hub"], "mini": self.MINI}[name], max_length=100)
        head = tokenizer._head(text * 10_000, 600)
        assert len(head) < 700 or (name == "mini" and " " not in text)
