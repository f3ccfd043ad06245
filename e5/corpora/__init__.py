"""Whole corpora: files of documents -> a folder of vectors -> an index -> search."""
