"""Whether the order of rows that the paper reports is found again, beyond the seeds' noise."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .tables import Claim, Table

__all__ = ["DASH", "Pair", "Summary", "Verdict", "check_claim", "format_metric", "summarize"]

DASH = "\N{EN DASH}"  # for a number that is not there


@dataclasses.dataclass(frozen=True)
class Summary:
    """A metric of a row over its seeds.

    Args:
        mean: over the seeds that have it.
        deviation: the sample standard deviation; None for one seed.
        count: how many seeds have it.
        by_seed: the metric at each seed.
    """

    mean: float
    deviation: float | None
    count: int
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows of a claim.

    Args:
        above: the row that the claim puts above.
        below: the row that it puts below.
        outcome: as in :class:`Verdict`.
        difference: of the means, above minus below; None where a row is not measured.
        paper: the same in the paper; None where it has no number.
        deviations: the difference in pooled standard deviations, where both rows have one.
        noise: a difference no larger than this may come from the seeds alone.
        one_seed: a row has a single seed, so that its own noise is not known.
        share_missed: the difference is too small a share of the paper's.
    """

    above: str
    below: str
    outcome: str
    difference: float | None = None
    paper: float | None = None
    deviations: float | None = None
    noise: float = 0.0
    one_seed: bool = False
    share_missed: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the results say of a claim.

    Args:
        claim: the claim.
        verdict: ``"holds"``, ``"does not hold"``, ``"within noise"`` or ``"not measured"``.
        detail: a sentence with the pairs that decided it.
        pairs: all pairs of rows that the claim compares.
    """

    claim: Claim
    verdict: str
    detail: str
    pairs: tuple[Pair, ...]


def summarize(results: Mapping[str, Any]) -> dict[str, dict[str, Summary]]:
    """Mean and standard deviation over the seeds.

    Args:
        results: a table's results, as the runner writes them.

    Returns:
        a summary for each row and metric with at least one finite number. ``seconds`` are those
        among a seed's metrics, else what its training took.
    """
    values: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in results.get("rows") or []:
        for number, seed in enumerate(row.get("seeds") or []):
            metrics = {"seconds": seed.get("seconds"), **(seed.get("metrics") or {})}
            for metric, value in metrics.items():
                # bool is an int, and evaluations write NaN where there are no objects of a size
                if isinstance(value, int | float) and math.isfinite(value):
                    values[str(row["row"])][metric][seed.get("seed", number)] = float(value)
    return {
        row: {metric: _summary(by_seed) for metric, by_seed in metrics.items()}
        for row, metrics in values.items()
    }


def _summary(by_seed: Mapping[int, float]) -> Summary:
    numbers = list(by_seed.values())
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Summary(statistics.fmean(numbers), deviation, len(numbers), by_seed)


def check_claim(claim: Claim, table: Table, results: Mapping[str, Any]) -> Verdict:
    """Compare the order of rows that the paper reports with the one measured.

    A pair of rows is in order when its difference exceeds two standard errors and the claim's
    share of the paper's difference. Rows of the same seeds are compared seed by seed, since all
    rows of a seed start from one network and see the images in one order. A row of one seed is
    taken to vary as the other row of the pair does; where both have one, nothing is known of the
    noise and any difference in the right direction counts. The detail says "one seed".

    Args:
        claim: one of the table's.
        table: the table, with the paper's numbers.
        results: its results, as the runner writes them.

    Returns:
        the verdict. One pair in the opposite order refutes a claim, whatever is missing.
    """
    summaries = summarize(results)
    pairs = tuple(
        _pair(claim, table, summaries, above, below)
        for upper, lower in zip(claim.order, claim.order[1:], strict=False)
        for above in upper
        for below in lower
    )
    outcomes = {pair.outcome for pair in pairs}
    verdict = next(
        v for v in ("does not hold", "not measured", "within noise", "holds") if v in outcomes
    )
    return Verdict(claim, verdict, _detail(claim, verdict, pairs, summaries), pairs)


def _pair(
    claim: Claim,
    table: Table,
    summaries: Mapping[str, Mapping[str, Summary]],
    above: str,
    below: str,
) -> Pair:
    x, y = (summaries.get(row, {}).get(claim.metric) for row in (above, below))
    x_paper, y_paper = (table.rows[row].paper.get(claim.metric) for row in (above, below))
    paper = None if x_paper is None or y_paper is None else x_paper - y_paper
    if x is None or y is None:
        return Pair(above, below, "not measured", paper=paper)
    difference = x.mean - y.mean
    one_seed = x.deviation is None or y.deviation is None
    deviations = None
    if not one_seed and x.deviation > 0 and y.deviation > 0:
        deviations = difference / math.sqrt((x.deviation**2 + y.deviation**2) / 2)
    noise = _noise(x, y)
    known = noise is not None
    noise = noise or 0.0
    # "share: 0" asks for nothing, and a tie has no share of a difference
    asks = bool(claim.share) and not claim.ties and paper is not None
    share_missed = asks and difference < claim.share * paper
    if share_missed or difference < -noise:
        outcome = "does not hold"
    elif claim.ties or difference > noise:
        outcome = "holds"
    else:
        outcome = "within noise" if known else "does not hold"
    return Pair(above, below, outcome, difference, paper, deviations, noise, one_seed, share_missed)


def _noise(x: Summary, y: Summary) -> float | None:
    """Two standard errors of the difference of two means; None where both have one seed."""
    if x.deviation is None and y.deviation is None:
        return None
    if x.by_seed.keys() == y.by_seed.keys() and x.count > 1:
        differences = [x.by_seed[seed] - y.by_seed[seed] for seed in x.by_seed]
        return 2 * statistics.stdev(differences) / math.sqrt(x.count)
    # a row of one seed is taken to vary as the other does
    dx = y.deviation if x.deviation is None else x.deviation
    dy = x.deviation if y.deviation is None else y.deviation
    return 2 * math.sqrt(dx**2 / x.count + dy**2 / y.count)


def _detail(
    claim: Claim,
    verdict: str,
    pairs: tuple[Pair, ...],
    summaries: Mapping[str, Mapping[str, Summary]],
) -> str:
    """A sentence with the pairs that decided the verdict."""
    decisive = [pair for pair in pairs if pair.outcome == verdict]
    if verdict == "not measured":
        rows = dict.fromkeys(row for pair in decisive for row in (pair.above, pair.below))
        absent = [row for row in rows if claim.metric not in summaries.get(row, {})]
        text = f"No {claim.metric} of {', '.join(absent)} yet"
        measured = len(pairs) - len(decisive)
        return f"{text}; {measured} of {len(pairs)} pairs of rows are measured."
    if verdict == "holds":
        decisive = [min(decisive, key=lambda pair: pair.difference - pair.noise)]
    text = "; ".join(_describe(pair, claim) for pair in decisive)
    return f"{'At the least, ' if verdict == 'holds' and len(pairs) > 1 else ''}{text}."


def _describe(pair: Pair, claim: Claim) -> str:
    where = _direction(claim.metric, pair.difference)
    text = f"{pair.above} is {where} {pair.below}"
    notes = []
    if pair.paper is not None:
        notes.append(f"{_direction(claim.metric, pair.paper)} in the paper")
    if pair.deviations is not None:
        notes.append(f"{abs(pair.deviations):.1f} standard deviations")
    if pair.noise:
        notes.append(f"noise {format_metric(claim.metric, pair.noise)}")
    if pair.one_seed:
        notes.append("one seed")
    text += f" ({', '.join(notes)})" if notes else ""
    if pair.share_missed:
        text += f", less than {claim.share:g} of the paper's difference"
    return text


def _direction(metric: str, difference: float) -> str:
    if difference == 0:
        return "level with"
    return f"{format_metric(metric, abs(difference))} {'above' if difference > 0 else 'below'}"


def format_metric(metric: str, value: float | None, *, signed: bool = False) -> str:
    """Write a number as the paper would.

    Args:
        metric: its short name; ``anchors`` are written as 47k and fractions of ``seconds`` with
            three digits.
        value: the number; None is a dash.
        signed: with a plus or a minus sign, as a difference.

    Returns:
        the text.
    """
    if value is None:
        return DASH
    size = abs(value)
    if metric == "anchors" and size >= 1000:
        text = f"{size / 1000:.{0 if size >= 9950 else 1}f}k"
    elif metric == "anchors":
        text = f"{size:.0f}"
    elif metric == "seconds":
        text = f"{size:.3f}" if size < 10 else f"{size:.0f}"
    else:
        text = f"{size:.1f}"
    sign = "\N{MINUS SIGN}" if value < 0 else "+" if signed else ""
    # what rounds to nothing has no sign
    return text if not float(text.rstrip("k")) else sign + text
