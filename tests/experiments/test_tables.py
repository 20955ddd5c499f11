"""The tables as data: the paper's numbers, typed in again by hand, and what is refused."""

import copy
import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml

from fpn_d2 import UserError, load_config
from fpn_d2.experiments import load_tables

FILE = Path(__file__).resolve().parents[2] / "configs" / "tables.yaml"

# From the paper's PDF, not from the file: the columns in their order, by row.
TABLE_1 = {  # anchors, AR100, AR1k, s, m, l
    "a": (47000, 36.1, 48.3, 32.0, 58.7, 62.2),
    "b": (12000, 36.3, 44.9, 25.3, 55.5, 64.2),
    "c": (200000, 44.0, 56.3, 44.9, 63.4, 66.2),
    "d": (200000, 37.4, 49.5, 30.5, 59.9, 68.0),
    "e": (200000, 34.5, 46.1, 26.5, 57.4, 64.7),
    "f": (750000, 38.4, 51.3, 35.1, 59.7, 67.6),
}
TABLE_2 = {  # AP50, AP, s, m, l
    "a": (54.7, 31.9, 15.7, 36.5, 45.5),
    "b": (52.9, 28.8, 11.9, 32.4, 43.4),
    "c": (56.9, 33.9, 17.8, 37.7, 45.8),
    "d": (44.9, 24.9, 10.9, 24.4, 38.5),
    "e": (54.0, 31.3, 13.3, 35.2, 45.3),
    "f": (56.3, 33.4, 17.3, 37.3, 45.6),
}
TABLE_3 = {
    "a": (53.1, 31.6, 13.2, 35.6, 47.1),
    "b": (51.7, 28.0, 9.6, 31.9, 43.1),
    "c": (56.9, 33.9, 17.8, 37.7, 45.8),
}
TABLE_5 = {  # AP50, AP
    "not_shared": (56.9, 33.9),
    "shared": (57.2, 34.3),
    "not_shared_R_101": (58.0, 35.0),
    "shared_R_101": (58.2, 35.2),
}
TABLE_6 = {  # AR, s, m, l, seconds
    "image_pyramid": (37.1, 15.8, 50.1, 54.9, 0.49),
    "5x5": (43.4, 32.5, 49.2, 53.7, 0.15),
    "7x7": (43.5, 30.0, 49.6, 57.8, 0.19),
    "dual": (45.7, 31.9, 51.5, 60.8, 0.24),
    "dual_28": (46.7, 31.7, 53.1, 63.2, 0.25),
    "dual_28_2x": (48.1, 32.6, 54.2, 65.6, 0.25),
}
AR_COLUMNS = ("anchors", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l")
AP_COLUMNS = ("AP50", "AP", "AP_s", "AP_m", "AP_l")
PAPER = {
    "1": (AR_COLUMNS, TABLE_1),
    "2": (AP_COLUMNS, TABLE_2),
    "3": (AP_COLUMNS, TABLE_3),
    "5": (AP_COLUMNS[:2], TABLE_5),
    "6": (("AR", "AR_s", "AR_m", "AR_l", "seconds"), TABLE_6),
}


@pytest.fixture(scope="module")
def tables():
    return load_tables(FILE)


# -- the paper ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(tables, name):
    columns, rows = PAPER[name]
    found = {row: value.paper for row, value in tables.table(name).rows.items() if value.paper}
    assert found == {row: dict(zip(columns, rows[row], strict=True)) for row in rows}
    assert tables.table(name).metrics == list(columns)


def test_the_papers_running_times_and_its_competition_model(tables):
    times = {name: dict(row.paper) for name, row in tables.table("time").rows.items() if row.paper}
    assert times == {
        "FPN": {"seconds": 0.148},
        "FPN_R_101": {"seconds": 0.172},
        "C4": {"seconds": 0.32},
    }
    assert tables.table("4").rows["FPN"].paper == {"AP": 35.6}


@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_detectors_of_these_tables_read_the_proposals_that_the_paper_says(tables, name):
    for row, value in tables.table(name).rows.items():
        for scale, config in value.configs.items():
            loads = load_config(tables.config_file(config)).MODEL.LOAD_PROPOSALS
            assert loads == (scale in value.proposals) == (not value.beside)
            if not loads:
                continue
            # Table 2 takes those of Table 1(c), Tables 3 and 4 the row's own
            rpn = config.replace("Fast-RCNN/fast_rcnn", "RPN/rpn").replace("_2x", "")
            if name == "2":
                rpn = tables.table("1").rows["c"].configs[scale]
            assert value.proposals[scale] == rpn, row


# -- the configs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def configs(tables):
    """Every config that the file names, by scale."""
    found = {scale: set() for scale in tables.scales}
    for table in tables.tables.values():
        for row in table.rows.values():
            for named in (row.configs, row.proposals):
                for scale, config in named.items():
                    found[scale].add(config)
    return found


def test_every_config_loads_at_its_scale(tables, configs):
    assert {"paper", "quick"} == {scale for scale, names in configs.items() if names}
    depths = {"paper": {50, 101}, "quick": {18}}
    for scale, names in configs.items():  # "settled" and "photos" have the configs of "quick"
        dataset = tables.scale(scale).dataset
        for name in names:
            cfg = load_config(tables.config_file(name))
            assert cfg.MODEL.RESNETS.DEPTH in depths[scale], name
            assert all(d.startswith(f"{dataset}_") for d in cfg.DATASETS.TEST), name


def test_every_row_of_the_paper_can_be_trained_on_a_laptop(tables):
    for name in ("1", "2", "3", "4"):
        table = tables.table(name)
        assert set(table.rows_at("quick")) == set(table.rows_at("paper")) == set(table.rows)
    assert set(tables.table("5").rows_at("quick")) == {"shared", "not_shared"}


def test_the_start_of_a_scale_is_a_config_too(tables):
    start = tables.scale("quick").start
    assert load_config(tables.config_file(start["config"])).MODEL.RESNETS.DEPTH == 18
    assert start["iterations"] == 1500  # at most; held-out crops end it
    assert not tables.scale("paper").start  # ImageNet, as the configs say


def test_the_quick_scale_freezes_what_the_authors_code_freezes(tables):
    scale = tables.scale("quick")
    frozen = set()
    for table, name in (("1", "c"), ("2", "a"), ("6", "dual"), ("5", "shared")):
        row = tables.table(table).rows[name]
        config = load_config(tables.config_file(row.configs["quick"]), scale.opts)
        assert not config.SOLVER.AMP.ENABLED
        frozen.add((config.MODEL.BACKBONE.FREEZE_AT, config.MODEL.RESNETS.NORM))
    assert frozen == {(2, "FrozenBN")}  # the authors' configs: gradients stop after res2
    # A start of basic blocks does not fill conv5 of the C4 head, whose norm has to learn.
    assert config.MODEL.ROI_BOX_HEAD.NORM == "BN"
    (precision,) = (r for r in tables.table("precision").rows.items() if r[0] == "rpn_bf16")
    opts = [*scale.opts, *precision[1].opts]
    assert load_config(tables.config_file(precision[1].configs["quick"]), opts).SOLVER.AMP.ENABLED


def test_a_scale_like_another_one_has_its_rows_at_every_schedule(tables):
    quick, table = tables.scale("quick"), tables.table_at("1", "settled")
    assert tables.scale("settled").opts == quick.opts
    assert tables.scale("settled").start == quick.start
    counts = (300, 600, 1200, 2400)
    names = [f"{row}_{count}" for row in ("c", "d", "f", "c_heads") for count in counts]
    assert (list(table.rows), table.stem) == (names, "table1_settled")
    row, own = table.rows["d_600"], tables.table("1").rows["d"]
    assert row.configs == {"settled": own.configs["quick"]}
    assert row.opts == ["SOLVER.MAX_ITER", "600", "SOLVER.STEPS", "(480,)"]
    assert (row.of, row.iterations, row.paper) == ("d", 600, own.paper)
    # The first schedule is the configs' own, so its runs are those of the quick scale.
    config = load_config(tables.config_file(own.configs["quick"]))
    assert (config.SOLVER.MAX_ITER, table.rows["d_300"].opts) == (300, [])
    assert config.SOLVER.STEPS == (240,)  # four fifths, as at every other schedule
    # "FPN (c) finds more than every other row", of the rows that are there
    assert table.claims[3].order == [["c_2400"], ["d_2400", "f_2400"]]
    whole = tables.table("1").claims[0].claim
    assert table.claims[3].claim == f"{whole} (among c, d, f), 2400 iterations"
    assert table.claims[3].of == whole
    assert {claim.order[0][0] for claim in table.claims} == {f"c_{n}" for n in counts}
    fast = tables.table_at("2", "settled").rows["c_1200"]
    assert fast.proposals == {"settled": "quick/RPN/rpn_R_18_FPN.yaml"}


def test_a_claim_is_left_out_where_a_whole_group_of_its_rows_is(tables):
    """A row is never compared with itself, and a missing baseline does not count as below."""
    settled = [(c.claim, c.order) for c in tables.table_at("1", "settled").claims]
    for _, order in settled:
        assert all(order)
        for group, below in itertools.pairwise(order):
            assert not set(group) & set(below)
    # the baselines of (f) are missing, and so is (d)'s row with a head for each level
    left_out = [claim for claim, _ in settled if "lies between" in claim or "degraded" in claim]
    assert not left_out
    assert sum("similar accuracy" in claim for claim, _ in settled) == 4  # one for each schedule


@pytest.mark.parametrize("iterations", [[], [300, 600]])
def test_a_scale_may_have_heads_with_or_without_the_row_beside_them(tables, iterations):
    for rows in (["c", "c_heads"], ["c_heads"], ["d", "f"], ["c", "d", "c_heads"]):
        mine = dataclasses.replace(tables.scale("settled"), rows={"1": rows}, iterations=iterations)
        changed = dataclasses.replace(tables, scales={**tables.scales, "mine": mine})
        table = changed.table_at("1", "mine")
        assert {table.rows[row.beside].of or "c" for row in table.rows.values() if row.beside} <= {
            "c"
        }
        heads = [key for key in table.rows if key.startswith("c_heads")]
        for key in heads if "c" in rows else ():
            assert table.rows[key].beside == key.replace("c_heads", "c")
        for claim in table.claims:
            assert {row for group in claim.order for row in group} <= table.rows.keys()
        similar = [c for c in table.claims if "similar accuracy" in c.claim]
        assert len(similar) == (max(1, len(iterations)) if "c" in rows else 0)


def test_the_photographs_start_from_imagenet(tables):
    photos, table = tables.scale("photos"), tables.table_at("1", "photos")
    assert photos.start["weights"] == "imagenet"
    assert photos.opts[: len(tables.scale("quick").opts)] == tables.scale("quick").opts
    assert table.rows_at("photos").keys() == tables.table("1").rows.keys()
    assert (table.stem, table.claims) == ("table1", tables.table("1").claims)
    assert tables.table_at("1", "anchors").stem == "table1_anchors"  # nuclei's own is table1
    assert not tables.table_at("6", "photos").rows_at("photos")
    assert tables.table_at("1", "quick") is tables.table("1")


def test_a_table_is_about_the_metric_of_its_first_claim(tables):
    table = tables.table("1")
    assert table.headline == "AR1k"  # and its last column is that of large objects
    assert dataclasses.replace(table, claims=[]).headline == "AR1k_l"


def test_configs_are_named_relative_to_the_file(tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text(FILE.read_text())
    assert load_tables(path).config_file("quick/a.yaml") == str(tmp_path / "quick/a.yaml")


# -- a user's own file -------------------------------------------------------------------------


SMALL = {
    "metrics": {"AR1k": "box_proposals/AR@1000"},
    "scales": {"quick": {"dataset": "shapes"}},
    "tables": {
        "mine": {
            "title": "Mine",
            "metrics": ["AR1k"],
            "rows": {"a": {"name": "A", "configs": {"quick": "a.yaml"}},
                     "b": {"name": "B", "configs": {"quick": "b.yaml"}, "beside": "a"}},
            "claims": [{"claim": "A is better", "metric": "AR1k", "order": [["a"], ["b"]]}],
        }
    },
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    """``load(change)``: the tables of the small file after ``change(content)``."""

    def call(change=lambda content: None):
        content = copy.deepcopy(SMALL)
        change(content)
        path = tmp_path / "tables.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_tables(path)

    return call


def test_a_small_file_is_enough(load):
    tables = load()
    table = tables.table("mine")
    assert (table.kind, table.rows["a"].paper, table.rows["b"].beside) == ("accuracy", {}, "a")
    assert (table.claims[0].share, table.claims[0].ties) == (0.0, False)
    assert tables.scale("quick").start == {}


def test_a_scale_like_another_one_has_the_last_word(load):
    """Over the start of the other scale, and by its schedules over the rows' own."""

    def change(content):
        content["scales"]["quick"]["start"] = {"config": "a.yaml", "iterations": 3}
        start = {"config": "b.yaml", "iterations": 5}
        mine = {"start": start, "iterations": [300, 600], "rows": {"mine": ["a"]}}
        content["scales"]["long"] = {"dataset": "shapes", "like": "quick", **mine}
        content["tables"]["mine"]["rows"]["a"]["opts"] = ["SOLVER.MAX_ITER", "400", "SEED", "7"]

    tables = load(change)
    assert tables.scale("long").start == {"config": "b.yaml", "iterations": 5}
    opts = tables.table_at("mine", "long").rows["a_600"].opts
    values = dict(zip(opts[::2], opts[1::2], strict=True))  # of a key given twice the last counts
    assert values == {"SOLVER.MAX_ITER": "600", "SEED": "7", "SOLVER.STEPS": "(480,)"}


def test_a_users_own_row_in_a_copy_of_the_file_works(tmp_path):
    text = FILE.read_text()
    row = 'c_wide: {name: "128 channels", configs: {quick: "mine.yaml"}, paper: {AR1k: 1.5}}'
    place = '    claims:\n      - {claim: "FPN (c) finds more'
    assert text.count(place) == 1
    path = tmp_path / "tables.yaml"
    path.write_text(text.replace(place, f"      {row}\n{place}"))
    table = load_tables(path).table("1")
    assert list(table.rows) == ["a", "b", "c", "d", "e", "f", "c_heads", "d_heads", "c_wide"]
    assert "c_wide" in table.rows_at("quick")
    assert "c_wide" not in table.rows_at("paper")
    assert table.rows["c_wide"].paper == {"AR1k": 1.5}


def test_a_number_is_a_name_of_a_table(load):
    """YAML reads the key 7 as a number."""
    tables = load(lambda c: c.update(tables={7: c["tables"]["mine"]}))
    assert tables.table("7").table == "7"


# The place in the small file, what stands there instead (... for nothing at all), and words of the
# sentence about it.
BAD = [
    ("tables", ..., ["tables is missing"]),
    ("metrics", ..., ["metrics is missing"]),
    ("scales", ..., ["scales is missing"]),
    ("metrics", None, ["metrics"]),
    ("tables", None, ["tables", "KEY: value"]),
    ("scales s", {}, ["scales, s", "dataset"]),
    ("scales quick data", 1, ["scales, quick", "data", "dataset"]),
    ("scales quick start", {"config": "a.yaml"}, ["scales, quick", "iterations"]),
    ("scales s", {"dataset": "x", "like": "q"}, ["scales, s, like", "no scale q"]),
    ("scales s", {"dataset": "x", "like": "quick", "rows": {"2": ["a"]}}, ["s, rows", "table 2"]),
    ("scales s", {"dataset": "x", "like": "quick", "rows": {"mine": ["z"]}}, ["mine", "no row z"]),
    ("tables mine title", ..., ["table mine", "title is missing"]),
    ("tables mine row", {}, ["table mine", "no key row", "rows"]),
    ("tables mine kind", "speed", ["table mine", "'speed'", "'timing'"]),
    ("tables mine metrics", ["AR2k"], ["table mine", "no metric AR2k"]),
    ("tables mine metrics", "AR1k", ["table mine", "metrics", "list"]),
    ("tables mine rows a configs", ..., ["table mine", "a: configs is missing"]),
    ("tables mine rows a config", "x", ["table mine", "rows, a", "no key config", "configs"]),
    ("tables mine rows a", None, ["rows, a", "KEY: value"]),
    ("tables mine rows b beside", "z", ["table mine, rows, b", "beside names z"]),
    ("tables mine rows a configs", "quick/a.yaml", ["rows, a", "configs"]),
    ("tables mine rows a configs", {"quik": "a.yaml"}, ["rows, a", "quik"]),
    ("tables mine rows a proposals", {"paper": "a.yaml"}, ["a", "proposals"]),
    ("tables mine rows a paper", {"AR2k": 1.0}, ["a", "AR2k"]),
    ("tables mine claims", {"claim": "A is better"}, ["table mine", "claims"]),
    ("tables mine claims 0 metric", "AR2k", ["table mine", "no metric AR2k"]),
    ("tables mine claims 0 order", [["a"], ["z"]], ["table mine", "'A is better'", "z"]),
    ("tables mine claims 0 order", [["a", "b"]], ["table mine", "'A is better'", "one group"]),
    ("tables mine claims 0 order", ..., ["table mine, claim 1", "order is missing"]),
    ("tables mine claims 0 tie", True, ["table mine, claim 1", "no key tie", "ties"]),
]


@pytest.mark.parametrize("place, value, named", BAD)
def test_a_fault_is_named_by_file_table_and_key(load, tmp_path, place, value, named):
    def change(content):
        *parents, key = place.split()
        for parent in parents:
            content = content[int(parent) if parent.isdigit() else parent]
        content[key] = value
        if value is ...:
            del content[key]

    with pytest.raises(UserError) as error:
        load(change)
    sentence = str(error.value)
    assert "\n" not in sentence
    for words in (str(tmp_path / "tables.yaml"), *named):
        assert words in sentence


@pytest.mark.parametrize("text", [b"tables: [", b"\xff\xfe\x00", b"a: {b: c\nd", b"- a", b""])
def test_a_file_that_is_no_yaml_is_named(tmp_path, text):
    path = tmp_path / "tables.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"\A.*{path}.*\Z"):  # one line
        load_tables(path)


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/made']")
    with pytest.raises(UserError):
        load_tables(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"^tables file {tmp_path / name} cannot be read"):
        load_tables(tmp_path / name)


def test_an_unknown_table_or_scale_is_answered_with_those_there_are(tables):
    with pytest.raises(UserError, match="no table 9; there are 1, 2, 3, 4, 5, .*time"):
        tables.table("9")
    with pytest.raises(UserError, match="no scale tiny; there are paper, quick"):
        tables.scale("tiny")
