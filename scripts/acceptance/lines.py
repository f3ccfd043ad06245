"""What a step says: lines with a figure, and whether it passes.

Knows nothing of steps, models or files.
"""

from dataclasses import dataclass

PASSED, FAILED, NOT_RUN, FIGURE = "passed", "FAILED", "not run", "figure"


@dataclass(frozen=True)
class Line:
    """One line of a report.

    Attributes:
        what: was looked at.
        figure: what was found, with its unit; or why nothing was.
        result: PASSED, FAILED, NOT_RUN, or FIGURE: found, without a bound.
        aim: what would pass.
    """

    what: str
    figure: str
    result: str = FIGURE
    aim: str = ""


def passes(what: str, figure: object, passed: bool, aim: str = "") -> Line:
    """A line that passes or fails."""
    return Line(what, str(figure), PASSED if passed else FAILED, aim)


def at_least(what: str, value: float, bound: float, unit: str = "") -> Line:
    """Passes from `bound` on; NaN fails.

    >>> at_least("cosine", 0.99995, 0.999)
    Line(what='cosine', figure='0.99995', result='passed', aim='at least 0.999')
    """
    return passes(what, in_digits(value, unit), value >= bound, f"at least {bound:g}{unit}")


def at_most(what: str, value: float, bound: float, unit: str = "") -> Line:
    """Passes up to `bound`; NaN fails.

    >>> at_most("self-check", 1.25, 1, " s")
    Line(what='self-check', figure='1.25 s', result='FAILED', aim='at most 1 s')
    """
    return passes(what, in_digits(value, unit), value <= bound, f"at most {bound:g}{unit}")


def near(what: str, value: float, truth: float, tolerance: float) -> Line:
    """Passes within `tolerance` of the truth.

    >>> near("BIOSSES", 0.8512, 0.855, 0.005).result
    'passed'
    """
    aim = f"{truth:g} ± {tolerance:g}"
    return passes(what, in_digits(value), abs(value - truth) <= tolerance, aim)


def not_run(what: str, why: str) -> Line:
    """Nothing was found out."""
    return Line(what, why, NOT_RUN)


def in_digits(value: float, unit: str = "") -> str:
    """Six digits, without an exponent where that reads better.

    >>> in_digits(14261659648.0), in_digits(1234.5678, " ms")
    ('1.42617e+10', '1234.57 ms')
    """
    return f"{value:.6g}{unit}"
