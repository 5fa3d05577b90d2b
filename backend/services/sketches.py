"""Percentiles in constant memory: a DDSketch that is counted into by table.

DDSketch says into which bin a duration falls so that the middle of the bin is never more than ACCURACY away
from it. Its bins, up to a day, are laid out here beforehand: to count is one search in a table, a third of
what asking the library costs. The library makes percentiles of the counts (docs/decisions/0017-figures.md).
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from ddsketch import DDSketch
from ddsketch.mapping import LogarithmicMapping

# Relative: a percentile of 3 s is told as 2.97 to 3.03 s.
ACCURACY = 0.01
SHORTEST_SECONDS = 10e-6
LONGEST_SECONDS = 86_400.0

_mapping = LogarithmicMapping(ACCURACY)
_first = int(_mapping.key(SHORTEST_SECONDS))
# Upper bounds, each in its bin: a sketch's bin holds what is above the bound before it and up to its own.
BOUNDS: tuple[float, ...] = tuple(
    float(_mapping.gamma**key) for key in range(_first, int(_mapping.key(LONGEST_SECONDS)) + 1)
)
_MIDDLES: tuple[float, ...] = tuple(
    float(_mapping.value(key)) for key in range(_first, _first + len(BOUNDS) + 1)
)

Counts = list[int]


def empty() -> Counts:
    return [0] * (len(BOUNDS) + 1)


def bin_of(seconds: float) -> int:
    """Return the bin of a duration; shorter than the first bound and longer than the last have one each."""
    return bisect_left(BOUNDS, seconds)


def added(counts: Iterable[Sequence[int]]) -> Counts:
    """Return the sum of several sketches' counts."""
    return [sum(column) for column in zip(*counts, strict=True)] or empty()


def packed(counts: Sequence[int]) -> dict[str, int]:
    """Return the bins that are not empty, for JSON: of a thousand bins a service fills some dozen."""
    return {str(number): count for number, count in enumerate(counts) if count}


def unpacked(bins: Mapping[str, int]) -> Counts:
    """Raises ValueError and IndexError for what was not packed here."""
    counts = empty()
    for number, count in bins.items():
        counts[int(number)] = int(count)
    return counts


def percentiles(counts: Sequence[int], shares: Iterable[float]) -> list[float | None]:
    """Return the durations that these shares of all do not exceed, in seconds; None where nothing was
    counted."""
    return _quantiles(((number, count) for number, count in enumerate(counts) if count), shares)


def percentiles_of_packed(
    several: Iterable[Mapping[str, int]], shares: Iterable[float]
) -> list[float | None]:
    """Return the same of several packed sketches together.

    Raises ValueError and IndexError for what was not packed here.
    """
    filled = ((int(number), count) for bins in several for number, count in bins.items())
    return _quantiles(filled, shares)


def _quantiles(filled: Iterable[tuple[int, int]], shares: Iterable[float]) -> list[float | None]:
    sketch = DDSketch(ACCURACY)
    for number, count in filled:
        sketch.add(_MIDDLES[number], count)
    return [sketch.get_quantile_value(share) for share in shares]
