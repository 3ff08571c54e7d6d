"""Numbers as people read them."""

import math


def count(n: float) -> str:
    """1,470."""
    return f"{n:,.0f}"


def number(value: float) -> str:
    """Three significant digits, but no exponent below 10⁷ and nothing of an integer lost: 19.4, 0.0123, 1,200."""
    size = abs(value)
    if size and not 1e-4 <= size < 1e7:
        return _minus(f"{value:.2e}")
    size = float(f"{size:.3g}")  # 99.96 has no decimal, since it reads 100
    digits = 0 if size == 0 or size >= 100 else 2 - math.floor(math.log10(size))
    return _minus(f"{value:,.{digits}f}")


def percent(value: float) -> str:
    """95.2%."""
    return _minus(f"{value:.1f}%")


def signed(value: float) -> str:
    """A change in percent, +4.2% or −4.2%."""
    return _minus(f"{value:+.1f}%")


def interval(low: float | None, high: float | None) -> str:
    """94.0 to 96.3; nothing where there is no interval."""
    return "" if low is None or high is None else _minus(f"{low:.1f} to {high:.1f}")


def signed_interval(low: float | None, high: float | None) -> str:
    """−8.0 to +1.2; nothing where there is no interval."""
    return "" if low is None or high is None else _minus(f"{low:+.1f} to {high:+.1f}")


def span(low: float | None, high: float | None) -> str:
    """The same for numbers of any size: 0.0110 to 0.0137."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def duration(seconds: float) -> str:
    """7 min 3 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else (f"{rest} s" if rest else f"{seconds:.1f} s")


def label(key: object) -> str:
    """A key of report.json as words: n_before, "n before"."""
    return str(key).replace("_", " ")


def _minus(text: str) -> str:
    return text.replace("-", "−") if "e-" not in text else text
