"""Numbers as text, with as many digits as their errors allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Numbers of at least LARGE, or with more than PLACES decimal places, are written with an exponent.
LARGE, PLACES = 1e7, 7
#: A spread below this fraction of the value is a rounding error of equal numbers.
NO_SPREAD = 1e-12


def places(error: float) -> int:
    """The decimal place that an error ends at: that of its first digit, or of its second one if the first is 1.

    >>> places(0.034), places(0.014), places(340), places(0.096)
    (2, 3, -2, 2)
    """
    mantissa, _, exponent = f"{error:.12e}".partition("e")
    return (mantissa[0] == "1") - int(exponent)


def rounded(value: float, error: float = np.nan) -> str:
    """A value to the decimal place of its error, or to four digits where that is not known or zero.

    >>> rounded(0.51234, 0.034), rounded(0.51234, 0.014), rounded(1234.5, 340), rounded(1234.5)
    ('0.51', '0.512', '1200', '1234')
    >>> rounded(-0.0012, 0.3), rounded(1.23456e-9, 2.5e-11), rounded(float("nan"), 1)
    ('0.0', '1.23e-09', '-')
    """
    if not np.isfinite(value):
        return "-"
    if not (np.isfinite(error) and error > 0):
        return f"{value:.4g}"
    return _at(value, places(error), max(abs(value), error))


def with_error(value: float, error: float) -> str:
    """A value and its error, both to the decimal place of the error.

    >>> with_error(0.51234, 0.034), with_error(12345, 1260), with_error(0.5, float("nan"))
    ('0.51 ± 0.03', '12300 ± 1300', '0.5')
    """
    return rounded(value, error) + (f" ± {_error(error, value)}" if np.isfinite([value, error]).all() else "")


def described(value: float, se: float, sd: float, lower: float, upper: float, *, in_spreads: bool = False) -> str:
    """A value with what is known about its error: ``value [lower, upper]``, or ``value ± se`` without an interval; in a
    table with spreads over trainings ``mean ± sd [lower, upper]``, or ``mean ± sd (se)``.

    The decimal place is that of ``sd``, else of ``se``, else of half of the interval's half width. The ends of an
    interval have the same place, with two exceptions: far ends are rounded to a tenth of their distance, and ends that
    would be rounded to zero keep their first digit, to show that the interval excludes zero.

    >>> nan = float("nan")
    >>> described(0.95123, 0.021, nan, 0.9, 0.98), described(0.95123, 0.021, nan, nan, nan)
    ('0.95 [0.90, 0.98]', '0.95 ± 0.02')
    >>> described(0.95123, 0.021, 0.013, nan, nan, in_spreads=True), described(5.0, 8.0, nan, 0.02, 1243.0)
    ('0.951 ± 0.013 (0.02)', '5 [0.02, 1240]')
    >>> described(1.6e-10, 1e-10, nan, 0.0, 5e-10)
    '1.6e-10 [0, 5.0e-10]'
    >>> described(0.95, 0.05, 1.4e-16, nan, nan, in_spreads=True)
    '0.95 ± 0 (0.05)'
    """
    if not np.isfinite(value):
        return "-"
    if sd <= NO_SPREAD * abs(value):
        sd = 0.0
    bounded = bool(np.isfinite([lower, upper]).all())
    error = next((e for e in (sd, se, (upper - lower) / 4) if np.isfinite(e) and e > 0), np.nan)
    text = rounded(value, error) + (f" ± {_error(sd, value)}" if np.isfinite(sd) else "")
    if bounded:
        return f"{text} [{_end(lower, value, error)}, {_end(upper, value, error)}]"
    if not np.isfinite(se):
        return text
    return f"{text} ({_error(se, value)})" if in_spreads else with_error(value, se)


def _end(end: float, value: float, error: float) -> str:
    text = rounded(end, max(error, abs(end - value) / 10))
    return rounded(end, abs(end)) if float(text) == 0 and abs(end) > 1e-9 * error else text


def aligned(cells: Sequence[str]) -> list[str]:
    """Pad cells to one width: first numbers are aligned at the decimal point, the text after them at the left.

    >>> aligned(["0.51 ± 0.03", "12.3", "-", "-1 ± 2"])
    [' 0.51 ± 0.03', '12.3       ', ' -         ', '-1    ± 2   ']
    """
    split = [(*number.partition("."), tail) for number, _, tail in (cell.partition(" ") for cell in cells)]
    whole = max(len(whole) for whole, *_ in split) if split else 0
    numbers = [whole_.rjust(whole) + point + fraction for whole_, point, fraction, _ in split]
    width = max(map(len, numbers), default=0)
    texts = [f"{number.ljust(width)} {tail}" for number, (*_, tail) in zip(numbers, split, strict=True)]
    width = max((len(text.rstrip()) for text in texts), default=0)
    return [text.rstrip().ljust(width) for text in texts]


def _error(error: float, value: float) -> str:
    """An error to its own decimal place, with an exponent if its value has one."""
    return _at(error, places(error), max(abs(value), error)) if error > 0 else f"{error:g}"


def _at(value: float, place: int, size: float) -> str:
    """A value to a decimal place, with an exponent if its size or place requires one."""
    if place > PLACES or size >= LARGE:
        if value == 0:
            return "0"
        exponent = int(f"{value:e}".partition("e")[2])
        return f"{value:.{max(place + exponent, 0)}e}"
    near = round(value, place) + 0.0  # no minus before a zero
    return f"{near:.{max(place, 0)}f}"
