"""How e5-mini is trained: on no evaluation text, always alike, by the service's arithmetic."""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from mini import sources  # noqa: E402
from mini.lessons import Lessons  # noqa: E402
from mini.sources import Pair  # noqa: E402
from mini.student import export, forward, new_student, principal_axes, unit  # noqa: E402
from mini.texts import (  # noqa: E402
    Corpus,
    Leaks,
    Swapper,
    add_swapped,
    evaluation_texts,
    held_out_pairs,
    split_written,
)
from mini.training import train  # noqa: E402
from mini.vocabulary import build_tokenizer, words_of  # noqa: E402
from tokenizers import Tokenizer as RawTokenizer  # noqa: E402
from transformers import MistralModel  # noqa: E402

from e5 import Embedder, Settings  # noqa: E402
from e5.model import forward as packed_forward  # noqa: E402
from e5.packing import pack  # noqa: E402
from e5.tokenizer import Tokenizer  # noqa: E402

VOCABULARY = 2048


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """A twentieth of the project's own writing, as every kind of pair."""
    pairs = sources.written()
    groups = sorted({pair.group for pair in pairs})[::20]
    found = Corpus()
    for kind in ("written", "debian", "wordnet"):
        found.add_pairs(kind, [pair for pair in pairs if pair.group in groups], Leaks())
    found.fillers = [p for _, passages, _ in found.pairs["written"] for p in passages]
    return found


@pytest.fixture(scope="module")
def raw(corpus: Corpus) -> RawTokenizer:
    return build_tokenizer(corpus.texts, ["the", "of", "water"], VOCABULARY)


@pytest.fixture(scope="module")
def lessons(corpus: Corpus, raw: RawTokenizer) -> Lessons:
    draw = np.random.default_rng(0)
    labels = unit(draw.standard_normal((len(corpus.texts), 192)).astype(np.float32))
    return Lessons(corpus, labels, [], raw)


def new_model(seed: int) -> MistralModel:
    draw = np.random.default_rng(seed)
    return new_student(unit(draw.standard_normal((VOCABULARY, 192)).astype(np.float32)))


def test_no_text_of_the_evaluation_is_written_to_be_trained_on() -> None:
    leaks = Leaks()
    found = [
        text
        for pair in sources.written()
        for text in (pair.query, *pair.passages)
        if leaks.found_in(text)
    ]
    assert found == []


def test_evaluation_text_is_found_whole_or_in_part() -> None:
    leaks = Leaks([Pair("a title of three", ("This package contains the documentation.",), "")])
    for text in evaluation_texts():
        assert leaks.found_in(text)
        if len(words_of(text)) >= 6:
            assert leaks.found_in(f"Well, {text.upper()} and so on")
    assert leaks.found_in("A title of three!")
    assert not leaks.found_in("This package contains the documentation of another.")


def test_subjects_held_out_from_training_are_held_out_whole() -> None:
    trained_on, held_out = split_written()
    assert not {pair.group for pair in trained_on} & {pair.group for pair in held_out}
    assert len(held_out) > 100


def test_the_evaluation_set_is_what_it_says() -> None:
    items = [
        json.loads(line)
        for line in (ROOT / "scripts/evaluation/questions.jsonl").read_text().splitlines()
    ]
    texts = [text for item in items for text in (item["right"], *item["distractors"])]
    assert len(items) >= 100
    assert len({item["domain"] for item in items}) >= 20
    assert len(set(texts)) == 4 * len(items)
    pairs = [
        json.loads(line)
        for line in (ROOT / "scripts/evaluation/pairs.jsonl").read_text().splitlines()
    ]
    assert len({(pair["a"], pair["b"]) for pair in pairs}) == len(pairs) == 200
    assert {pair["grade"] for pair in pairs} == {0, 1, 2, 3, 4, 5}


def test_held_out_titles_do_not_depend_on_what_else_there_is() -> None:
    pairs = [Pair(f"package number {i}", ("words",), "debian") for i in range(3000)]
    kept = held_out_pairs(pairs)
    random.Random(0).shuffle(pairs)
    assert held_out_pairs(pairs) == kept
    assert len(kept) == 1000
    newer = [Pair(f"newer package {i}", ("words",), "debian") for i in range(60)]
    assert len(set(held_out_pairs([*pairs, *newer])) & set(kept)) > 950


def test_debian_wordnet_and_help_pages_are_read(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    wordnet = tmp_path / "packages/usr/share/wordnet"
    pages = tmp_path / "packages/usr/share/help/C/help"
    for folder in (lists, wordnet, pages):
        folder.mkdir(parents=True)
    described = "Package: {}\nDescription-md5: 0\nDescription-en: {}\n {}\n .\n And more of it.\n"
    body = "A long text about what it does\n and for whom it was made."
    records = [
        described.format("a", "tool for all seasons", body),
        described.format("b", "tool for all seasons", "The same title and another text behind it."),
        described.format("c", "short", body),
    ]
    (lists / "x_i18n_Translation-en").write_text("\n".join(records))
    assert sources.descriptions(tmp_path) == [
        Pair(
            "tool for all seasons",
            ("A long text about what it does and for whom it was made. And more of it.",),
            "debian",
        )
    ]
    for part in ("noun", "verb", "adj", "adv"):
        (wordnet / f"data.{part}").write_text("  1 This software and database\n")
    (wordnet / "data.noun").write_text(
        "  1 licence\n02084071 05 n 02 dog 0 domestic_dog 0 001 @ 02083346 n 0000"
        ' | a member of the genus Canis; many breeds; "the dog barked"; "a wet dog"  \n'
    )
    assert list(sources.definitions(tmp_path)) == [
        (
            "dog, domestic dog",
            "a member of the genus Canis; many breeds",
            ["the dog barked", "a wet dog"],
        )
    ]
    (pages / "a.page").write_text(
        "<page><title>Click &amp; drag</title>"
        "<p>Use the <gui>left</gui>\n button of it.</p><p>No.</p></page>"
    )
    assert list(sources.help_pages(tmp_path)) == [("Click & drag", ["Use the left button of it."])]


def test_a_snapshot_is_named_by_what_it_holds_not_by_where_it_came_from() -> None:
    head = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n"
        "Label: Debian-Security\nSuite: oldstable-security\nCodename: bookworm-security\n"
        "Date: Sat, 21 Nov 2026 00:53:02 UTC\nValid-Until: Sat, 28 Nov 2026 00:53:02 UTC\n"
    )
    assert sources.release(head) == (
        "Debian-Security bookworm-security",
        "Sat, 21 Nov 2026 00:53:02 UTC",
    )


def test_any_text_has_ids_and_the_service_reads_them(raw: RawTokenizer, tmp_path: Path) -> None:
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", max_length=4096)
    awkward = ["", "</s>", "\x00", "\N{GRINNING FACE}", "Éclair", "a\nb", "漢字", "x" * 1000]
    for text in [*awkward, *evaluation_texts()[:50]]:
        body = raw.encode(text, add_special_tokens=False).ids
        ids = tokenizer.encode([text])[0].token_ids
        assert (ids[0], ids[-1]) == (1, 2)
        assert 0 not in ids  # bytes stand for what is unknown
        if "</s>" not in text:
            assert list(ids[1:-1]) == body
    assert raw.get_vocab_size() == VOCABULARY


def test_of_equally_rare_letters_the_first_have_ids() -> None:
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 200)]  # each once: the trainer's choice
    texts = [" ".join(letters), *("common words of the language" for _ in range(9))]
    vocabulary = build_tokenizer(texts, ["common", "words", "of", "the"], 400).get_vocab()
    rare = [letter for letter in letters if f"▁{letter}" not in vocabulary]  # no words themselves
    kept = [letter for letter in rare if letter in vocabulary]
    assert kept
    assert kept == rare[: len(kept)]


def test_a_prompt_s_ids_stand_before_the_text_s_own(raw: RawTokenizer) -> None:
    def ids(text: str) -> Sequence[int]:
        return list(raw.encode(text, add_special_tokens=False).ids)

    prompt = "Instruct: Retrieve what answers\nQuery: "
    for text in evaluation_texts()[:50]:
        assert ids(prompt + text) == [*ids(prompt), *ids(text)]


def test_training_computes_what_the_service_computes() -> None:
    draw = random.Random(0)
    model = new_model(2).eval()
    texts = [
        (1, *(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, 90))), 2)
        for _ in range(70)
    ]
    with torch.no_grad():
        trained = forward(model, texts)
    served = packed_forward(model, pack(texts))
    assert (trained - served).abs().max() < 1e-4 * served.abs().max()


def test_a_step_s_lesson_is_always_the_same_and_in_order(lessons: Lessons) -> None:
    kinds = set()
    for step in range(40):
        lesson, again = lessons.lesson(step), lessons.lesson(step)
        assert lesson.token_ids == again.token_ids
        assert np.array_equal(lesson.targets, again.targets)
        assert len(lesson.token_ids) == len(lesson.targets)
        assert all(ids[0] == 1 and ids[-1] == 2 for ids in lesson.token_ids)
        np.testing.assert_allclose(np.linalg.norm(lesson.targets, axis=1), 1, rtol=1e-5)
        kinds.add(len(lesson.answers))
    assert 0 in kinds
    assert len(kinds) > 2


def test_training_stopped_and_gone_on_with_is_training(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mini.training.SAVE_EVERY", 2)
    monkeypatch.setattr("mini.training.LAST_PART", 2)
    monkeypatch.setattr("mini.training.WARM_UP", 2)
    whole = new_model(5)
    train(whole, lessons, 6, tmp_path / "whole.pt")

    def lesson_until_5(step: int, kinds: Mapping[str, float]) -> object:
        if step == 5:
            raise KeyboardInterrupt
        return Lessons.lesson(lessons, step, kinds)

    broken = new_model(5)
    with monkeypatch.context() as patch:
        patch.setattr(lessons, "lesson", lesson_until_5)
        with pytest.raises(KeyboardInterrupt):
            train(broken, lessons, 6, tmp_path / "state.pt")
    resumed = new_model(5)
    train(resumed, lessons, 6, tmp_path / "state.pt")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_training_brings_vectors_to_their_targets(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        only = next(it for it in map(lessons.lesson, range(99)) if not it.answers)
        patch.setattr(lessons, "lesson", lambda *_: only)
        patch.setattr("mini.training.WARM_UP", 2)
        curve = train(new_model(3), lessons, 21, tmp_path / "state.pt")
    assert curve[-1]["cosine"] < 0.9 * curve[0]["cosine"]


def test_an_exported_student_is_a_checkpoint_like_any_other(
    raw: RawTokenizer, tmp_path: Path
) -> None:
    model = new_model(4).eval()
    export(model, tmp_path)
    raw.save(str(tmp_path / "tokenizer.json"))
    embedder = Embedder.load(Settings(weights=str(tmp_path), device="cpu", dtype="float32"))
    ids = [encoding.token_ids for encoding in embedder.tokenizer.encode(evaluation_texts()[:20])]
    with torch.no_grad():
        trained = forward(model, ids).numpy()
    served = embedder.embed(ids)
    cosines = (unit(trained) * unit(served)).sum(axis=1)
    assert cosines.min() > 0.9999  # float16 weights


def test_swapped_sentences_keep_their_shape_and_are_new(corpus: Corpus) -> None:
    words = ["water", "river", "bread", "money"]
    swapper = Swapper(words, np.eye(4, 8, dtype=np.float32))
    swapped = swapper.swap("Where does the water of a river go?", random.Random(0))
    assert words_of(swapped)[:3] == ["where", "does", "the"]
    assert len(words_of(swapped)) == 8
    before = len(corpus.texts)
    copy = Corpus(list(corpus.texts), corpus.pairs, corpus.fillers, 0, dict(corpus.places))
    added = add_swapped(copy, swapper, 2)
    assert added
    assert min(added) >= before


def test_principal_axes_hold_most_of_the_labels() -> None:
    draw = np.random.default_rng(0)
    flat = draw.standard_normal((500, 100)) @ draw.standard_normal((100, 384))
    labels = unit(flat.astype(np.float32))
    axes = principal_axes(labels)
    kept = labels @ axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(192), atol=1e-5)
    np.testing.assert_allclose(kept @ kept.T, labels @ labels.T, atol=1e-4)


def test_shipped_weights_are_small_and_what_their_readme_says() -> None:
    folder = ROOT / "weights/e5-mini"
    manifest = json.loads((folder / "manifest.json").read_text())
    readme = (folder / "README.md").read_text()
    assert manifest["files"].keys() == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for digest in manifest["files"].values():
        assert digest in readme
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000_000
