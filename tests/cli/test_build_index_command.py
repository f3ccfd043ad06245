"""`e5 build-index` makes an index of a folder of shards, or says which argument is wrong."""

from pathlib import Path

from commands import Run
from corpus_tools import embed, texts, write_corpus

from e5.corpora import PassageSize, Recipe
from e5.embedder import Embedder


def test_the_index_is_described(tmp_path: Path, embedder: Embedder, run: Run) -> None:
    embed(write_corpus(tmp_path / "in" / "a.jsonl", texts(9)), tmp_path / "out", embedder)
    done = run("build-index", tmp_path / "out", tmp_path / "index")
    assert done.status == 0
    index = tmp_path / "index"
    said = f"{index} holds 9 documents by {embedder.name}; a search compares all of them; done in"
    assert done.out.startswith(said)


def test_passages_are_called_passages(tmp_path: Path, embedder: Embedder, run: Run) -> None:
    corpus = write_corpus(tmp_path / "in" / "a.jsonl", ["One sentence is here. " * 20])
    embed(corpus, tmp_path / "out", embedder, Recipe(passage_size=PassageSize(16)))
    done = run("build-index", tmp_path / "out", tmp_path / "index")
    assert " passages by " in done.out


def test_an_error_names_the_argument(tmp_path: Path, run: Run) -> None:
    done = run("build-index", tmp_path, tmp_path / "index")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"OUT: received {tmp_path}, which holds no manifest; embed a corpus into it first.\n"
    )
