"""What counts as noise, and what the results say about a claim."""

import math

import pytest

from fpn_d2.experiments.claims import Summary, check_claim, format_metric, summarize
from fpn_d2.experiments.tables import Claim, Row, Table, load_tables


def _results(**rows):
    """Return results of the metric AR from the numbers of each row's seeds 0, 1, ..."""
    return {
        "rows": [
            {"row": row, "seeds": [{"seed": i, "metrics": {"AR": v}} for i, v in enumerate(values)]}
            for row, values in rows.items()
        ]
    }


def _of_other_seeds(results):
    """Return the same results with x's seeds renumbered, so that no other row has them."""
    for entry in results["rows"]:
        for seed in entry["seeds"] if entry["row"] == "x" else ():
            seed["seed"] += 10
    return results


def _spread(x, y):
    """Return results of x and y with these means and s = 1, each on three seeds of its own."""
    return _of_other_seeds(_results(x=[x - 1.0, x, x + 1.0], y=[y - 1.0, y, y + 1.0]))


def _check(order, results, paper=None, **keys):
    paper = paper or {}
    names = {row for group in order for row in group}
    rows = {n: Row(n, {}, {"AR": paper[n]} if n in paper else {}) for n in names}
    claim = Claim("a claim", "AR", order, **keys)
    return check_claim(claim, Table("1", "", ["AR"], rows, [claim]), summarize(results))


def test_the_deviation_is_the_samples():
    summaries = summarize(_results(x=[1.0, 2.0, 3.0], y=[5]))
    x, y = (summaries[row]["AR"] for row in "xy")
    assert (x.mean, x.deviation, x.by_seed) == (2.0, 1.0, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (y.mean, y.deviation, y.by_seed) == (5.0, None, {0: 5.0})


def test_missing_numbers_are_left_out():
    results = _results(x=[None, math.nan, 4.0], y=[None])
    results["rows"] += [{"row": "z"}, {"row": "u", "seeds": [{"seed": 0}]}]
    assert summarize(results) == {"x": {"AR": Summary({2: 4.0})}}
    assert summarize({}) == {}


def test_a_timings_seconds_come_before_those_of_the_training():
    seeds = [{"seconds": 200.0, "metrics": {"seconds": 0.1}}, {"seconds": 3.0, "metrics": {}}]
    results = {"rows": [{"row": "x", "seeds": seeds[:1]}, {"row": "y", "seeds": seeds[1:]}]}
    summaries = summarize(results)
    assert (summaries["x"]["seconds"].mean, summaries["y"]["seconds"].mean) == (0.1, 3.0)


def test_a_difference_is_compared_with_the_noise():
    # noise = 2 sqrt(1/3 + 1/3) = 1.633
    for x, verdict in [(12, "holds"), (11, "within noise"), (9, "within noise")]:
        assert _check([["x"], ["y"]], _spread(x, 10)).verdict == verdict
    verdict = _check([["x"], ["y"]], _spread(8, 10), paper={"x": 50.0, "y": 46.5})
    assert verdict.verdict == "does not hold"
    (pair,) = verdict.pairs
    assert pair.noise == pytest.approx(2 * math.sqrt(2 / 3))
    assert (pair.difference, pair.paper) == (-2.0, 3.5)
    assert pair.deviations == pytest.approx(-2.0)
    assert verdict.detail == (
        "x is 2.0 below y (3.5 above in the paper, 2.0 standard deviations, noise 1.6)."
    )


def test_rows_of_the_same_seeds_are_compared_seed_by_seed():
    # differences of 1, 2 and 3: s = 1, so noise = 2 / sqrt(3) = 1.155
    results = _results(x=[11.0, 22.0, 3.0], y=[10.0, 20.0, 0.0])
    verdict = _check([["x"], ["y"]], results)
    assert verdict.verdict == "holds"
    assert verdict.pairs[0].noise == pytest.approx(2 / math.sqrt(3))
    # on their own, the rows vary by 10 from seed to seed
    assert _check([["x"], ["y"]], _of_other_seeds(results)).verdict == "within noise"


def test_seeds_that_one_row_lacks_do_not_count_where_three_are_in_common():
    # Over 0, 1 and 2: differences of 1, 2 and 3. x's fourth seed would make its mean 59.
    x, y = [11.0, 22.0, 3.0, 200.0], [10.0, 20.0, 0.0]
    (pair,) = _check([["x"], ["y"]], _results(x=x, y=y)).pairs
    assert (pair.outcome, pair.difference) == ("holds", 2.0)
    assert pair.noise == pytest.approx(2 / math.sqrt(3))
    (pair,) = _check([["x"], ["y"]], _results(x=y, y=x)).pairs
    assert (pair.outcome, pair.difference) == ("does not hold", -2.0)
    # With two in common all count: 59 - 15.
    (pair,) = _check([["x"], ["y"]], _results(x=x, y=y[:2])).pairs
    assert pair.difference == 44.0


def test_of_rows_with_no_deviation_none_is_given():
    (pair,) = _check([["x"], ["y"]], _results(x=[2.0, 2.0], y=[1.0, 3.0])).pairs
    assert pair.deviations is None
    assert pair.noise == pytest.approx(2.0)  # 2 sqrt(0/2 + 2/2)


def test_a_row_of_one_seed_is_taken_to_vary_as_the_other_does():
    # 2 sqrt(4 / 1 + 4 / 3) = 4.62 around y's mean of 10
    cases = [(14.7, "holds"), (14.6, "within noise"), (5.4, "within noise"), (5.3, "does not hold")]
    for x, verdict in cases:
        checked = _check([["x"], ["y"]], _results(x=[x], y=[10.0, 12.0, 8.0]))
        assert checked.verdict == verdict
        assert "one seed" in checked.detail
        assert checked.pairs[0].deviations is None


def test_with_one_seed_each_the_direction_counts_and_it_is_said():
    for x, verdict in [(10.1, "holds"), (10, "does not hold"), (9, "does not hold")]:
        checked = _check([["x"], ["y"]], _results(x=[x], y=[10.0]))
        assert checked.verdict == verdict
        assert "one seed" in checked.detail


def test_one_seed_refutes_no_tie():
    for x in (9.9, 10.1):
        checked = _check([["x"], ["y"], ["x"]], _results(x=[x], y=[10.0]), ties=True)
        assert checked.verdict == "within noise"
        assert "one seed" in checked.detail


def test_a_share_of_the_papers_difference_is_asked_for():
    paper = {"x": 8.0, "y": 4.0}
    assert _check([["x"], ["y"]], _results(x=[3], y=[1]), paper, share=0.5).verdict == "holds"
    verdict = _check([["x"], ["y"]], _results(x=[2.9], y=[1]), paper, share=0.5)
    assert verdict.verdict == "does not hold"
    assert "less than 0.5 of the paper's difference" in verdict.detail
    assert _check([["x"], ["y"]], _results(x=[2.9], y=[1]), share=0.5).verdict == "holds"
    # Of a tie no share is asked for.
    ties = _check([["x"], ["y"]], _spread(2.9, 1), paper, share=0.5, ties=True)
    assert (ties.verdict, ties.pairs[0].share_missed) == ("holds", False)


def test_a_share_that_is_missed_within_the_noise_is_open():
    # Half of the paper's 4 is 2. The differences vary by 0.5, so noise = 2 * 0.5 / sqrt(3) = 0.577.
    for x, verdict in [(3.0, "holds"), (2.9, "within noise"), (2.4, "does not hold")]:
        results = _results(x=[x, x + 0.5, x - 0.5], y=[1.0, 1.0, 1.0])
        checked = _check([["x"], ["y"]], results, {"x": 8.0, "y": 4.0}, share=0.5)
        assert checked.verdict == verdict


def test_a_tie_may_be_within_the_noise():
    for x, verdict in [(9, "holds"), (8, "does not hold")]:
        assert _check([["x"], ["y"]], _spread(x, 10), ties=True).verdict == verdict
    assert _check([["x"], ["y"]], _results(x=[1], y=[1]), ties=True).verdict == "holds"


def test_the_pairs_that_decide_are_those_with_the_verdict():
    # The differences from y vary by 0.5, a noise of 0.6, and from z by 1.5, a noise of 1.7.
    results = _results(x=[1.0, 1.5, 0.5], y=[2.2, 3.2, 1.2], z=[1.7, 0.7, 2.7])
    checked = _check([["x"], ["y", "z"]], results)
    assert [pair.outcome for pair in checked.pairs] == ["does not hold", "within noise"]
    assert [(pair.above, pair.below) for pair in checked.decisive] == [("x", "y")]


def test_each_group_is_compared_with_the_next_only():
    verdict = _check([["x"], ["y"], ["z", "u"]], _results(x=[5], y=[4], z=[1], u=[3.5]))
    assert verdict.verdict == "holds"
    assert [(p.above, p.below) for p in verdict.pairs] == [("x", "y"), ("y", "z"), ("y", "u")]
    assert verdict.detail == "At the least, y is 0.5 above u (one seed)."
    # Of 3.0 with a noise of 1.2 and 2.0 without any, the first is closer to the wrong order.
    verdict = _check([["x"], ["y", "z"]], _results(x=[5, 5, 5], y=[1, 2, 3], z=[3, 3, 3]))
    assert verdict.detail == "At the least, x is 3.0 above y (noise 1.2)."


def test_one_pair_refutes_a_claim_that_is_not_all_measured():
    verdict = _check([["x"], ["y", "z"]], _results(x=[5], y=[4]))
    assert verdict.verdict == "not measured"
    assert verdict.detail == "No AR of z yet; 1 of 2 pairs of rows are measured."
    verdict = _check([["x"], ["y", "z"]], _results(x=[5], y=[6]))
    assert verdict.verdict == "does not hold"
    verdict = _check([["x"], ["y", "z"]], _results(x=[5, 6], y=[5, 5]))  # x and y: within noise
    assert verdict.verdict == "not measured"


def test_the_papers_own_numbers_fulfil_its_claims(repo):
    for table in load_tables(repo / "configs" / "tables.yaml").tables.values():
        rows = [
            {"row": name, "seeds": [{"seed": 0, "metrics": dict(row.paper)}]}
            for name, row in table.rows.items()
        ]
        for claim in table.claims:
            names = {row for group in claim.order for row in group}
            known = all(claim.metric in table.rows[name].paper for name in names)
            verdict = check_claim(claim, table, summarize({"rows": rows})).verdict
            assert verdict == ("holds" if known else "not measured"), claim.claim


@pytest.mark.parametrize(
    "metric, value, text",
    [
        ("anchors", 47250, "47k"),
        ("anchors", 9949, "9.9k"),
        ("anchors", 9960, "10k"),
        ("anchors", 850, "850"),
        ("AR100", 49.06, "49.1"),
        ("seconds", 0.148, "0.148"),
        ("seconds", 201.3, "201"),
        ("AP", None, "\N{EN DASH}"),
    ],
)
def test_numbers_are_written_as_in_the_paper(metric, value, text):
    assert format_metric(metric, value) == text


def test_a_difference_has_a_sign_unless_it_rounds_to_nothing():
    texts = [format_metric("AP", value, signed=True) for value in (1.2, -1.2, -0.04)]
    assert texts == ["+1.2", "\N{MINUS SIGN}1.2", "0.0"]
