"""The figures of units add up to those of a run."""

from e5.corpora.synchronize import STAGES, Summary


def test_summaries_add_up_in_every_figure_and_every_stage() -> None:
    whole = Summary(documents=1, dead_letters=2, seconds=dict.fromkeys(STAGES, 1.0))
    part = Summary(1, 2, 3, 4, 5, 6, seconds={"read": 0.5, "write": 0.25})
    whole += part
    seconds = dict.fromkeys(STAGES, 1.0) | {"read": 1.5, "write": 1.25}
    assert whole == Summary(2, 2, 3, 4, 5, 8, seconds=seconds)
    assert part == Summary(1, 2, 3, 4, 5, 6, seconds={"read": 0.5, "write": 0.25})


def test_no_two_summaries_share_their_seconds() -> None:
    first, second = Summary(), Summary()
    first += Summary(seconds={"read": 1.0})
    assert (first.seconds["read"], second.seconds["read"]) == (1.0, 0.0)
