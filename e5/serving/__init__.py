"""One validated request -> one answer, computed together with those of other callers."""
