"""The built-in checkpoint's tokenizer reads any text, and the service reads it alike."""

from collections.abc import Sequence
from pathlib import Path

from small_corpus import VOCABULARY, tokenizer

from e5.tokenizer import Tokenizer
from training.texts import evaluation_texts
from training.vocabulary import build_tokenizer


def ids_of(text: str) -> Sequence[int]:
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def test_any_text_has_ids_and_the_service_reads_them(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    service_tokenizer = Tokenizer(tmp_path / "tokenizer.json", max_length=4096)
    awkward = ["", "</s>", "\x00", "\N{GRINNING FACE}", "Éclair", "a\nb", "漢字", "x" * 1000]
    for text in [*awkward, *evaluation_texts()[:50]]:
        ids = service_tokenizer.encode([text])[0].token_ids
        assert (ids[0], ids[-1]) == (1, 2)
        assert 0 not in ids  # bytes stand for what is unknown
        if "</s>" not in text:
            assert list(ids[1:-1]) == ids_of(text)
    assert tokenizer().get_vocab_size() == VOCABULARY


def test_of_equally_rare_characters_the_first_have_ids() -> None:
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 200)]  # each once: the trainer's choice
    texts = [" ".join(letters), *("common words of the language" for _ in range(9))]
    vocabulary = build_tokenizer(texts, ["common", "words", "of", "the"], 400).get_vocab()
    rare = [letter for letter in letters if f"▁{letter}" not in vocabulary]  # no words themselves
    kept = [letter for letter in rare if letter in vocabulary]
    assert kept
    assert kept == rare[: len(kept)]


def test_a_prompt_s_ids_stand_before_the_text_s_own() -> None:
    prompt = "Instruct: Retrieve what answers\nQuery: "
    for text in evaluation_texts()[:50]:
        assert ids_of(prompt + text) == [*ids_of(prompt), *ids_of(text)]
