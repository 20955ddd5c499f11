"""Whether rows come out in the order that the paper reports, beyond the noise of the seeds."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from .tables import Claim, Table

DASH = "\N{EN DASH}"  # Stands for a missing number.


@dataclasses.dataclass(frozen=True)
class Summary:
    """A metric of a row, by each seed that has it."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; None for a single seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


# By row and metric.
Summaries = Mapping[str, Mapping[str, Summary]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows of a claim.

    Args:
        above: the row that the claim puts above the other.
        below: the other row.
        outcome: one of the verdicts of :class:`Verdict`.
        difference: the difference of the means, above minus below; None if a row is not measured.
        paper: the same difference in the paper; None if it has no number.
        deviations: the difference in pooled standard deviations, if both rows have one.
        noise: the largest difference that the seeds alone may make.
        seeds: how many seeds of each row count; the noise of a row with a single one is unknown.
        share_missed: whether the difference is too small a share of the paper's.
    """

    above: str
    below: str
    outcome: str
    difference: float | None = None
    paper: float | None = None
    deviations: float | None = None
    noise: float = 0.0
    seeds: tuple[int, ...] = ()
    share_missed: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the results say about a claim.

    Args:
        claim: the claim.
        verdict: ``"holds"``, ``"does not hold"``, ``"within noise"`` or ``"not measured"``.
        detail: a sentence with the pairs that decided the verdict.
        pairs: all pairs of rows that the claim compares.
        decisive: those that decided the verdict.
    """

    claim: Claim
    verdict: str
    detail: str
    pairs: tuple[Pair, ...]
    decisive: tuple[Pair, ...]


def summarize(results: Mapping[str, Any]) -> dict[str, dict[str, Summary]]:
    """Compute mean and standard deviation over the seeds of a results file's content.

    Returns:
        by row and metric, a summary of the finite numbers, if there are any. ``seconds`` are those
        among a seed's metrics, or else the seconds of its training.
    """
    values: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in results.get("rows") or []:
        for number, seed in enumerate(row.get("seeds") or []):
            metrics = {"seconds": seed.get("seconds"), **(seed.get("metrics") or {})}
            for metric, value in metrics.items():
                # Evaluations write NaN where there are no objects of a size.
                if isinstance(value, int | float) and math.isfinite(value):
                    values[str(row["row"])][metric][seed.get("seed", number)] = float(value)
    return {
        row: {metric: Summary(by_seed) for metric, by_seed in metrics.items()}
        for row, metrics in values.items()
    }


def check_claim(claim: Claim, table: Table, summaries: Summaries) -> Verdict:
    """Compare the order of rows that the paper reports with the measured one.

    A pair of rows is in order if its difference exceeds two standard errors and the claim's share
    of the paper's difference, and out of order if it is below 0 or that share by more than two
    standard errors. Rows with three or more seeds in common are compared over these, seed by seed,
    since all rows of a seed start from one network and see the images in one order; with two seeds,
    the differences may be alike by chance. A row with one seed is taken to vary as the other row of
    the pair does. If both rows have one seed, the noise is unknown: any difference in the right
    direction counts, none in the wrong one refutes a tie, and the detail says "one seed".

    Args:
        claim: one of the table's claims.
        table: the table, with the paper's numbers.
        summaries: the table's results; see :func:`summarize`.

    Returns:
        the verdict. A single pair in the opposite order refutes a claim, whatever is missing.
    """
    pairs = tuple(
        compare_rows(claim, table, summaries, above, below)
        for upper, lower in zip(claim.order, claim.order[1:], strict=False)
        for above in upper
        for below in lower
    )
    outcomes = {pair.outcome for pair in pairs}
    worst_first = ("does not hold", "not measured", "within noise", "holds")
    verdict = next(verdict for verdict in worst_first if verdict in outcomes)
    decisive = tuple(pair for pair in pairs if pair.outcome == verdict)
    detail = _detail(claim, verdict, decisive, len(pairs), summaries)
    return Verdict(claim, verdict, detail, pairs, decisive)


def compare_rows(claim: Claim, table: Table, summaries: Summaries, above: str, below: str) -> Pair:
    """Compare two rows by a claim's metric, share and ties; see :func:`check_claim`."""
    x, y = (summaries.get(row, {}).get(claim.metric) for row in (above, below))
    x_paper, y_paper = (table.rows[row].paper.get(claim.metric) for row in (above, below))
    paper = None if x_paper is None or y_paper is None else x_paper - y_paper
    if x is None or y is None:
        return Pair(above, below, "not measured", paper=paper)
    x, y = in_common(x, y)
    difference = x.mean - y.mean
    deviations = None
    if x.deviation and y.deviation:
        deviations = difference / math.sqrt((x.deviation**2 + y.deviation**2) / 2)
    noise = noise_between(x, y)
    known = noise is not None
    noise = noise or 0.0
    # A share of 0 asks for nothing, and a tie has no difference to take a share of.
    asks = bool(claim.share) and not claim.ties and paper is not None
    least = max(0.0, claim.share * paper) if asks else 0.0
    share_missed = asks and difference < least
    if claim.ties and not known and difference < 0:
        outcome = "within noise"  # with one seed each, nothing tells a difference from a tie
    elif difference < least - noise:
        outcome = "does not hold"
    elif claim.ties or (difference > noise and not share_missed):
        outcome = "holds"
    else:
        outcome = "within noise" if known else "does not hold"
    seeds = len(x.by_seed), len(y.by_seed)
    return Pair(above, below, outcome, difference, paper, deviations, noise, seeds, share_missed)


def in_common(x: Summary, y: Summary, least: int = 3) -> tuple[Summary, Summary]:
    """Restrict two rows to the seeds that both have, if there are at least ``least`` of these."""
    seeds = x.by_seed.keys() & y.by_seed.keys()
    if len(seeds) < least:
        return x, y
    x, y = (Summary({seed: row.by_seed[seed] for seed in sorted(seeds)}) for row in (x, y))
    return x, y


def noise_between(x: Summary, y: Summary) -> float | None:
    """Return two standard errors of the difference of two means; None if both have one seed."""
    if x.deviation is None and y.deviation is None:
        return None
    if x.by_seed.keys() == y.by_seed.keys() and len(x.by_seed) > 2:
        differences = [x.by_seed[seed] - y.by_seed[seed] for seed in x.by_seed]
        return 2 * statistics.stdev(differences) / math.sqrt(len(x.by_seed))
    # A row with one seed is taken to vary as the other does.
    dx = y.deviation if x.deviation is None else x.deviation
    dy = x.deviation if y.deviation is None else y.deviation
    return 2 * math.sqrt(dx**2 / len(x.by_seed) + dy**2 / len(y.by_seed))


def _detail(
    claim: Claim, verdict: str, decisive: Sequence[Pair], count: int, summaries: Summaries
) -> str:
    """Write a sentence about the pairs that decided the verdict, out of ``count`` pairs."""
    if verdict == "not measured":
        rows = dict.fromkeys(row for pair in decisive for row in (pair.above, pair.below))
        absent = [row for row in rows if claim.metric not in summaries.get(row, {})]
        text = f"No {claim.metric} of {', '.join(absent)} yet"
        measured = count - len(decisive)
        return f"{text}; {measured} of {count} pairs of rows are measured."
    if verdict == "holds":
        decisive = [min(decisive, key=lambda pair: pair.difference - pair.noise)]
    text = "; ".join(_describe(pair, claim) for pair in decisive)
    return f"{'At the least, ' if verdict == 'holds' and count > 1 else ''}{text}."


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
    if 1 in pair.seeds:
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
        metric: the metric's short name; ``anchors`` are written as 47k, and ``seconds`` below 10
            with three decimals.
        value: the number; None becomes a dash.
        signed: whether to write a plus sign too, as for a difference.
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
    # A number that rounds to zero has no sign.
    return text if not float(text.rstrip("k")) else sign + text
