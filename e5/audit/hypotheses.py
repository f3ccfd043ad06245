"""What can have been done to vectors: every hypothesis with its stable name.

A hypothesis changes how one text's vector is computed; it knows neither models nor vectors. Those
of one group exclude each other, so a combination has at most one of each group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from e5.audit.sample import TextRole
from e5.prompts import TASKS, Prompts, around_query, resolve_task

# In the order in which a verdict joins the names.
GROUPS = ("ends", "tokens", "prompt", "text", "length", "pooling", "weights")
# Under causal attention the last token of a text's own knows nothing of the </s> behind it. So two
# mistakes give one vector, and a report gives both names.
SAME_VECTORS = {"no_eos": "last_content_token"}
LENGTHS = (128, 256, 512, 1024, 2048)

Pooling: TypeAlias = Literal[
    "last",
    "first",
    "mean",
    "mean_without_prefix",
    "before_norm",
    "padding_masked",
    "padding_attended",
]
Weights: TypeAlias = Literal["right", "bidirectional", "without_adapter"]


@dataclass(frozen=True)
class Computation:
    """How the vector of one text is computed; the defaults are right.

    Attributes:
        prefix: what stands before the text: a prompt's instruction.
        text: the text.
        suffix: what stands after it in a prompt.
        bos: how many `<s>` begin the token ids.
        eos: how many `</s>` end them.
        specials_parsed: whether `</s>` in a text becomes the control token.
        leading_space: whether the first word gets the tokenizer's `▁`.
        max_tokens: maximum token ids, both ends included; None is the checkpoint's own maximum.
        keeps_end: whether a text that is too long loses its beginning.
        pooling: from which hidden states the vector is made.
        weights: what computes.
    """

    prefix: str
    text: str
    suffix: str = ""
    bos: int = 1
    eos: int = 1
    specials_parsed: bool = False
    leading_space: bool = True
    max_tokens: int | None = None
    keeps_end: bool = False
    pooling: Pooling = "last"
    weights: Weights = "right"

    @property
    def prompt(self) -> str:
        """The whole text that is tokenised."""
        return self.prefix + self.text + self.suffix


@dataclass(frozen=True)
class PromptRules:
    """The prompts of a checkpoint under a task.

    Attributes:
        prompts: the checkpoint's.
        task: an instruction or a registered name; blank for none.
    """

    prompts: Prompts
    task: str

    def around(self, task: str) -> tuple[str, str]:
        """What stands before and after a query under a task."""
        return around_query(task, self.prompts)

    def is_query(self, way: Computation, role: TextRole) -> bool:
        """Whether a right computation is that of a query."""
        prompted = (way.prefix, way.suffix) == self.around(self.task)
        return role == "query" or (role == "auto" and prompted)

    def right(self, text: str, role: TextRole) -> list[Computation]:
        """How the text should be computed: in one way, or in two if its role is not known."""
        prefix, suffix = self.around(self.task)
        query = Computation(prefix, text, suffix)
        document = Computation(self.prompts.before_document, text)
        if resolve_task(self.task).symmetric:
            document = query
        ways = {"query": [query], "document": [document], "auto": [document, query]}
        return list(dict.fromkeys(ways[role]))


Change: TypeAlias = Callable[[Computation, TextRole, PromptRules], Computation]


@dataclass(frozen=True)
class Hypothesis:
    """One thing that can have been done.

    Attributes:
        name: its stable name.
        group: one of `GROUPS`.
        value: to which length, or which instruction; "" for most.
        change: a text's right computation -> the one that the hypothesis says.
        variant: tells apart hypotheses that bear one name and differ in detail.
    """

    name: str
    group: str
    change: Change = field(repr=False, compare=False)
    value: str = ""
    variant: int = 0

    @property
    def label(self) -> str:
        """The name, with the value."""
        return f"{self.name} {self.value}".rstrip()

    @property
    def packed(self) -> bool:
        """Whether the packed forward can compute it; the rest needs the unmodified model."""
        return self.group not in ("pooling", "weights") or self.name == "first_token"


# At most one hypothesis of each group, in the order of the groups; () is right.
Combination: TypeAlias = tuple[Hypothesis, ...]
RIGHT: Combination = ()


def label(combination: Combination) -> str:
    """The names of a combination joined by ` + `.

    Example:
        >>> by_name = {each.label: each for each in HYPOTHESES}
        >>> label((by_name["no_eos"], by_name["truncated 512"])), label(RIGHT)
        ('no_eos + truncated 512', 'right')
    """
    return " + ".join(hypothesis.label for hypothesis in combination) or "right"


def simplicity(combination: Combination) -> tuple[int, list[int]]:
    """Sorts combinations that give the same vectors: fewer names first, then the usual ones."""
    return len(combination), [_EVERY.index(hypothesis) for hypothesis in combination]


def combine(combination: Combination, hypothesis: Hypothesis) -> Combination | None:
    """The combination with one more hypothesis; None if it has one of that group already."""
    if any(each.group == hypothesis.group for each in combination):
        return None
    return tuple(sorted((*combination, hypothesis), key=lambda each: GROUPS.index(each.group)))


def without(combination: Combination, group: str) -> Combination:
    """The combination without its hypothesis of a group."""
    return tuple(each for each in combination if each.group != group)


def instead(combination: Combination, hypothesis: Hypothesis) -> Combination:
    """The combination with a hypothesis in the place of that of its group."""
    return combine(without(combination, hypothesis.group), hypothesis) or RIGHT


def computations(
    combination: Combination, text: str, role: TextRole, rules: PromptRules
) -> list[Computation]:
    """How a text's vector may have been computed under a combination."""
    ways = rules.right(text, role)
    # Texts are changed before prompts are added to them; the rest does not depend on the order.
    for hypothesis in sorted(combination, key=lambda each: each.group != "prompt"):
        ways = [hypothesis.change(way, role, rules) for way in ways]
    return list(dict.fromkeys(ways))


def _set(name: str, group: str, value: str = "", variant: int = 0, **changes: object) -> Hypothesis:
    """A hypothesis that changes fields, whatever the text."""

    def change(way: Computation, _: TextRole, __: PromptRules) -> Computation:
        return replace(way, **changes)  # type: ignore[arg-type]  # fields of Computation

    return Hypothesis(name, group, change, value, variant)


def _no_instruction(way: Computation, role: TextRole, _: PromptRules) -> Computation:
    return way if role == "auto" else replace(way, prefix="", suffix="")


def _instruction_on_document(way: Computation, role: TextRole, rules: PromptRules) -> Computation:
    if role != "document":
        return way
    prefix, suffix = rules.around(rules.task)
    return replace(way, prefix=prefix, suffix=suffix)


def _double_instruction(way: Computation, _: TextRole, __: PromptRules) -> Computation:
    return replace(way, prefix=way.prefix * 2, suffix=way.suffix * 2)


def _no_blank_after_query(way: Computation, _: TextRole, __: PromptRules) -> Computation:
    return replace(way, prefix=way.prefix.rstrip(" "))


def _other_instruction(name: str, *, on_documents: bool) -> Hypothesis:
    def change(way: Computation, role: TextRole, rules: PromptRules) -> Computation:
        if resolve_task(name).instruction == resolve_task(rules.task).instruction:
            return way
        prefix, suffix = rules.around(name)
        changes = on_documents or rules.is_query(way, role) or resolve_task(rules.task).symmetric
        return replace(way, prefix=prefix, suffix=suffix) if changes else way

    return Hypothesis("other_instruction", "prompt", change, name, int(on_documents))


def _e5_prefix(query: str, document: str, variant: int) -> Hypothesis:
    """The prefixes of the older E5 models."""

    def change(way: Computation, role: TextRole, rules: PromptRules) -> Computation:
        prefix = query if rules.is_query(way, role) else document
        return replace(way, prefix=prefix, suffix="")

    return Hypothesis("e5_prefix", "prompt", change, variant=variant)


def _mean_without_prefix(way: Computation, _: TextRole, __: PromptRules) -> Computation:
    return replace(way, pooling="mean_without_prefix" if way.prefix else "mean")


def _text(name: str, change: Callable[[str], str], variant: int = 0) -> Hypothesis:
    """A hypothesis about the text before it gets a prompt."""

    def changed(way: Computation, _: TextRole, __: PromptRules) -> Computation:
        return replace(way, text=change(way.text))

    return Hypothesis(name, "text", changed, variant=variant)


def _whole_prompt(name: str, change: Callable[[str], str], variant: int = 1) -> Hypothesis:
    """A hypothesis about the text with its prompt."""

    def changed(way: Computation, _: TextRole, __: PromptRules) -> Computation:
        if not way.prefix:
            return replace(way, text=change(way.text))
        # The bars keep blanks between prompt and text from being taken for outer ones.
        prefix, suffix = change(way.prefix + "|")[:-1], change("|" + way.suffix)[1:]
        return replace(way, prefix=prefix, text=change("|" + way.text)[1:], suffix=suffix)

    return Hypothesis(name, "text", changed, variant=variant)


def _truncated(length: int, name: str, variant: int, *, keeps_end: bool) -> Hypothesis:
    """Variant 0 counts both ends, as transformers does; variant 1 only what is between them."""

    def change(way: Computation, _: TextRole, __: PromptRules) -> Computation:
        max_tokens = length + variant * (way.bos + way.eos)
        return replace(way, max_tokens=max_tokens, keeps_end=keeps_end)

    return Hypothesis(name, "length", change, str(length), variant)


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _collapsed(text: str) -> str:
    return " ".join(text.split())


OTHER_INSTRUCTIONS: Sequence[Hypothesis] = [
    _other_instruction(name, on_documents=on_documents)
    for on_documents in (False, True)
    for name in TASKS
]

PADDING: Sequence[Hypothesis] = [
    _set("padding_read", "pooling", pooling="padding_masked"),
    _set("padding_read", "pooling", variant=1, pooling="padding_attended"),
]

# All others; those of the two lists above are compared on fewer rows.
HYPOTHESES: Sequence[Hypothesis] = [
    _set("no_eos", "ends", eos=0),
    _set("no_bos", "ends", bos=0),
    _set("no_bos_no_eos", "ends", bos=0, eos=0),
    _set("double_bos", "ends", bos=2),
    _set("double_eos", "ends", eos=2),
    _set("special_tokens_parsed", "tokens", specials_parsed=True),
    _set("no_leading_space", "tokens", leading_space=False),
    Hypothesis("no_instruction", "prompt", _no_instruction),
    Hypothesis("instruction_on_document", "prompt", _instruction_on_document),
    Hypothesis("double_instruction", "prompt", _double_instruction),
    Hypothesis("no_blank_after_query", "prompt", _no_blank_after_query),
    _e5_prefix("query: ", "passage: ", 0),
    _e5_prefix("query: ", "query: ", 1),
    _e5_prefix("passage: ", "passage: ", 2),
    _e5_prefix("query: ", "", 3),
    _text("newlines_replaced", _one_line),
    _whole_prompt("newlines_replaced", _one_line),
    _text("newlines_replaced", _collapsed, 2),
    _text("stripped", str.strip),
    _whole_prompt("stripped", str.strip),
    _text("lowercased", str.lower),
    _whole_prompt("lowercased", str.lower),
    *(_truncated(n, "truncated", v, keeps_end=False) for n in LENGTHS for v in (0, 1)),
    *(_truncated(n, "truncated_left", v, keeps_end=True) for n in LENGTHS for v in (0, 1)),
    _set("first_token", "pooling", pooling="first"),
    _set("mean", "pooling", pooling="mean"),
    Hypothesis("mean_with_instruction_masked", "pooling", _mean_without_prefix),
    _set("before_norm", "pooling", pooling="before_norm"),
    _set("bidirectional", "weights", weights="bidirectional"),
    _set("adapter_missing", "weights", weights="without_adapter"),
]

_EVERY = [*HYPOTHESES, *PADDING, *OTHER_INSTRUCTIONS]
