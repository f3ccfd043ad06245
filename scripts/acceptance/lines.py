"""The lines of a report: each has a figure and may pass or fail."""

from dataclasses import dataclass

PASSED, FAILED, NOT_RUN, FIGURE = "passed", "FAILED", "not run", "figure"


@dataclass(frozen=True)
class Line:
    """One line of a report.

    Attributes:
        what: what was tried.
        figure: the result with its unit, or the reason why there is none.
        result: PASSED, FAILED, NOT_RUN, or FIGURE, which is a result without a bound.
        aim: the bound of the result.
    """

    what: str
    figure: str
    result: str = FIGURE
    aim: str = ""


def passes(what: str, figure: object, passed: bool, aim: str = "") -> Line:
    """Make a line that passes or fails."""
    return Line(what, str(figure), PASSED if passed else FAILED, aim)


def at_least(what: str, value: float, bound: float, unit: str = "") -> Line:
    """Make a line that passes from `bound` on; NaN fails.

    >>> at_least("cosine", 0.99995, 0.999)
    Line(what='cosine', figure='0.99995', result='passed', aim='at least 0.999')
    """
    return passes(what, in_digits(value, unit), value >= bound, f"at least {bound:g}{unit}")


def at_most(what: str, value: float, bound: float, unit: str = "") -> Line:
    """Make a line that passes up to `bound`; NaN fails.

    >>> at_most("self-check", 1.25, 1, " s")
    Line(what='self-check', figure='1.25 s', result='FAILED', aim='at most 1 s')
    """
    return passes(what, in_digits(value, unit), value <= bound, f"at most {bound:g}{unit}")


def near(what: str, value: float, truth: float, tolerance: float) -> Line:
    """Make a line that passes within `tolerance` of the truth.

    >>> near("BIOSSES", 0.8512, 0.855, 0.005).result
    'passed'
    """
    aim = f"{truth:g} ± {tolerance:g}"
    return passes(what, in_digits(value), abs(value - truth) <= tolerance, aim)


def not_run(what: str, why: str) -> Line:
    """Make a line that says why something was not tried."""
    return Line(what, why, NOT_RUN)


def in_digits(value: float, unit: str = "") -> str:
    """Format a value with six digits and its unit.

    >>> in_digits(14261659648.0), in_digits(1234.5678, " ms")
    ('1.42617e+10', '1234.57 ms')
    """
    return f"{value:.6g}{unit}"
