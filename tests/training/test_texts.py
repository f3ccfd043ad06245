"""The training shares no text with the evaluation."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import small_corpus

import training
from training.sources import Pair
from training.texts import (
    Corpus,
    LeakDetector,
    WordReplacer,
    add_copies,
    evaluation_texts,
    held_out_pairs,
    split_written,
)
from training.vocabulary import split_words

HERE = Path(training.__path__[0])


def test_evaluation_text_is_found_as_a_whole_and_in_part() -> None:
    leaks = LeakDetector(
        [Pair("a title of three", ("This package contains the documentation.",), "")]
    )
    for text in evaluation_texts():
        assert leaks.found_in(text)
        if len(split_words(text)) >= 6:
            assert leaks.found_in(f"Well, {text.upper()} and so on")
    assert leaks.found_in("A title of three!")
    assert not leaks.found_in("This package contains the documentation of another.")


def test_a_group_of_pairs_is_held_out_as_a_whole() -> None:
    trained_on, held_out = split_written()
    assert not {pair.group for pair in trained_on} & {pair.group for pair in held_out}
    assert len(held_out) > 100


def test_held_out_titles_hardly_depend_on_the_other_titles() -> None:
    pairs = [Pair(f"package number {i}", ("words",), "debian") for i in range(3000)]
    kept = held_out_pairs(pairs)
    random.Random(0).shuffle(pairs)
    assert held_out_pairs(pairs) == kept
    assert len(kept) == 1000
    newer = [Pair(f"newer package {i}", ("words",), "debian") for i in range(60)]
    assert len(set(held_out_pairs([*pairs, *newer])) & set(kept)) > 950


def read_items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def test_the_evaluation_set_is_what_it_says() -> None:
    items = read_items("questions.jsonl")
    texts = [text for item in items for text in (item["right"], *item["distractors"])]
    assert len(items) >= 100
    assert len({item["domain"] for item in items}) >= 20
    assert len(set(texts)) == 4 * len(items)
    pairs = read_items("pairs.jsonl")
    assert len({(pair["a"], pair["b"]) for pair in pairs}) == len(pairs) == 200
    assert {pair["grade"] for pair in pairs} == {0, 1, 2, 3, 4, 5}


def test_copies_with_replaced_words_keep_their_shape_and_are_new() -> None:
    words = ["water", "river", "bread", "money"]
    replacer = WordReplacer(words, np.eye(4, 8, dtype=np.float32))
    copy = replacer.replace("Where does the water of a river go?", random.Random(0))
    assert split_words(copy)[:3] == ["where", "does", "the"]
    assert len(split_words(copy)) == 8
    corpus = small_corpus.corpus()
    before = len(corpus.texts)
    same = Corpus(list(corpus.texts), corpus.pairs, corpus.fillers, 0, dict(corpus.index_by_text))
    added = add_copies(same, replacer, 2)
    assert added
    assert min(added) >= before
