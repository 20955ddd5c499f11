"""The workflow, the hooks and the issue forms that contributors meet fit the repository."""

import re
from pathlib import Path

import pytest
import setup_environment
import yaml


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workflow(repo) -> dict:
    return read_yaml(repo / ".github" / "workflows" / "ci.yml")


@pytest.fixture(scope="module")
def hooks(repo) -> dict[str, dict]:
    """The repositories of hooks, by the last part of their name."""
    repos = read_yaml(repo / ".pre-commit-config.yaml")["repos"]
    return {entry["repo"].rpartition("/")[2]: entry for entry in repos}


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_and_the_guide_run_targets_of_the_makefile(repo, workflow):
    makefile = (repo / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    guide = (repo / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {*re.findall(r"\bmake ([a-z-]+)\b(?=`|\s+#)", guide)} <= targets
    lines = [line for job in workflow["jobs"].values() for line in commands(job)]
    used = {line.removeprefix("make ") for line in lines if line.startswith("make ")}
    assert used == {"setup", "lint", "test", "test-slow"}
    assert used <= targets


def test_the_quick_tests_run_always_and_the_slow_ones_on_demand(workflow):
    jobs = workflow["jobs"]
    assert commands(jobs["test"])[-2:] == ["make setup", "make test"]
    assert "if" not in jobs["test"]
    assert commands(jobs["test-slow"])[-1] == "make test-slow"
    assert "'slow'" in jobs["test-slow"]["if"]
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as True
    assert "labeled" in triggers["pull_request"]["types"]
    assert triggers["schedule"]


def test_the_workflows_torch_and_python_are_those_of_the_setup(repo, workflow):
    assert workflow["env"]["TORCH"].split()[:2] == list(setup_environment.TORCH_PAIR)
    assert "whl/cpu" in workflow["env"]["TORCH"]
    for job in workflow["jobs"].values():
        (python,) = [s["with"] for s in job["steps"] if "setup-python" in s.get("uses", "")]
        assert python["python-version"] == "3.11"
        assert (repo / python.get("cache-dependency-path", "setup.py")).is_file()


def test_ruff_has_one_version_everywhere(hooks):
    version = setup_environment.DEV_TOOLS["ruff"].removeprefix("ruff==")
    assert hooks["ruff-pre-commit"]["rev"] == f"v{version}"
    used = [hook["id"] for hook in hooks["ruff-pre-commit"]["hooks"]]
    assert used == ["ruff-check", "ruff-format"]


def test_no_committed_file_is_refused_by_the_hooks(repo, hooks):
    by_name = {hook["id"]: hook for hook in hooks["pre-commit-hooks"]["hooks"]}
    (limit,) = by_name["check-added-large-files"]["args"]
    limit = int(limit.removeprefix("--maxkb="))
    written = re.compile(by_name["end-of-file-fixer"]["exclude"])
    for folder in ("configs", "datasets", "docs", "fpn_d2", "results", "tests", "tools", ".github"):
        for path in (repo / folder).rglob("*"):
            if path.suffix not in {".md", ".py", ".yaml", ".yml", ".html", ".json", ".png"}:
                continue
            if folder == "datasets" and path.name != "README.md":
                continue
            assert path.stat().st_size <= 1024 * limit, path
            if not written.match(path.relative_to(repo).as_posix()) and path.suffix != ".png":
                text = path.read_text(encoding="utf-8")
                assert text == "" or re.search(r"[^\n]\n\Z", text), f"{path}: its end"
            if path.suffix in {".yaml", ".yml"}:
                yaml.safe_load(text)


@pytest.mark.parametrize("name", ["bug.yml", "my_numbers_differ.yml"])
def test_an_issue_form_is_one(name, repo):
    # https://docs.github.com/communities/using-templates-to-encourage-useful-issues-and-pull-requests
    form = read_yaml(repo / ".github" / "ISSUE_TEMPLATE" / name)
    assert {"name", "description", "body"} <= set(form) <= {
        "name", "description", "body", "title", "labels"
    }  # fmt: skip
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    names = [element["id"] for element in fields]
    assert len(set(names)) == len(names) > 0
    if name == "my_numbers_differ.yml":  # it must ask for what tells runs apart
        told = {"config", "commit", "machine", "command", "seeds", "expected", "got", "results"}
        assert told <= set(names)
    for element in form["body"]:
        assert set(element) <= {"type", "id", "attributes", "validations"}
        if element["type"] == "markdown":
            assert element["attributes"]["value"]
            continue
        assert element["type"] in {"input", "textarea"}
        assert element["attributes"]["label"]
        known = {"label", "description", "placeholder"}
        known |= {"render"} if element["type"] == "textarea" else set()
        assert set(element["attributes"]) <= known
    assert any(element.get("validations", {}).get("required") for element in fields)
