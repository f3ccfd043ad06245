"""The audit's own texts, which an endpoint is asked for: what goes wrong shows in one of them.

They are queries and documents: short and long, with line breaks, blanks around them, capitals,
several scripts, emoji, and the names of special tokens.
"""

import random
from typing import NamedTuple

from e5.audit.dialects import TextSide


class OwnText(NamedTuple):
    """A text to ask for, with the name that a verdict has for it."""

    name: str
    side: TextSide
    text: str


_SENTENCES = """\
Snow is frozen water that falls from clouds in winter.
The harbour was built in 1874, and rebuilt after the storm of 1911.
A heat pump moves warmth from a cold place to a warm one.
Bees find their way back by the position of the sun.
The old library keeps maps of rivers that have since changed their beds.
Cut the onions finely, and fry them until they are golden.
An intake valve lets air into the cylinder of an engine.
Interest is compounded monthly, unless the contract says otherwise.
Most of the village speaks a dialect that has never been written down.
The committee rejected the proposal by nine votes to four.
Granite cools slowly, far below the ground, so its crystals are large.
Nobody knows who painted the portrait in the blue room.
A byte has eight bits, and an octet has eight by definition.
The orchestra tuned to the oboe before the second movement.
Salt lowers the temperature at which water freezes.
Two of the five bridges are closed to lorries.
The patient was given 250 mg twice a day for a week.
Sugar cane is cut in the dry season and pressed in a mill.
The female spider guards her eggs until they hatch.
Rain is expected in the north, and strong wind along the coast.
In chess, a pawn that reaches the last rank becomes another piece.
Her thesis compares the tax systems of three small islands.
The train leaves at seven, and arrives a little before noon.
Clay tablets record deliveries of barley and wool.
A compiler turns a program into instructions for a machine.
The team was promoted to the first league after twelve years.
Olive trees can bear fruit for more than a thousand years.
The telescope is cooled so that its own warmth does not blind it.
Fresh yeast should be kept cold, and used within a few days.
The court ruled that the letter had been sent in time.
"""


def _long(words: int, seed: int) -> str:
    """About so many words of sentences that come in no order."""
    draw, sentences, found = random.Random(seed), _SENTENCES.splitlines(), list[str]()
    while sum(len(each.split()) for each in found) < words:
        found += draw.sample(sentences, len(sentences))
    return " ".join(" ".join(found).split()[:words])


# The first ones show most. The long ones, of so many words, have more than 128, 256, 512, 1,024 and
# 2,048 tokens.
OWN_TEXTS = [
    own_text
    for number, (query, document) in enumerate(
        [
            ("how much protein should a female eat", "46 grams of protein a day are enough."),
            ("two lines\nin one query", "A heading\n\nand its first paragraph.\nA second line."),
            (_long(150, 1), _long(170, 2)),
            (_long(5, 3), _long(2200, 4)),
            ("WHO Guidelines For NASA Staff", "ALL CAPITALS: The E5 Model By Microsoft."),
            (_long(8, 5), _long(1300, 6)),
            (" blanks around a query ", "  A document with blanks around it.\n"),
            ("where does </s> end a text", "In HTML <s>this</s> is struck out; <unk> is not."),
            (_long(12, 7), _long(700, 8)),
            (_long(30, 9), _long(330, 10)),
            ("Summit", "a"),
            ("ما هو الثلج", "雪は冬に降る凍った水です。"),
            ("was ist Schnee ❄️ für Kinder?", "Noe\u0308l, nai\u0308ve, café: 👩‍👩‍👧 and 🏔️."),
            ("SELECT * FROM snow WHERE depth > 3.5", '{"id": 7, "tags": ["a", "b"], "x": null}'),
        ],
        1,
    )
    for own_text in (
        OwnText(f"query {number}", "query", query),
        OwnText(f"document {number}", "document", document),
    )
]
