"""The README keeps its word: its example runs, its commands and its links exist."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.main import app
from planner.simulator.simulate import simulate
from planner.simulator.system import Phase
from tests.planner.tiny_problems import planner_of, shape, tiny_problem

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])

# The words after `phaseplan` up to the first argument or option.
COMMAND = re.compile(r"`phaseplan((?: [a-z]+)*)")


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(), re.MULTILINE | re.DOTALL)


def test_the_readme_is_short() -> None:
    assert len(text().splitlines()) < 200


def compile_simulator() -> None:
    """Simulate something, so that the kernel is compiled or loaded."""
    problem = tiny_problem()
    planner = planner_of(problem)
    deployment = planner.deploy([shape(Phase.AGGREGATED)])
    assert deployment is not None
    requests = problem.service.workload.draw(2, seed=0, rate_rps=1.0)
    simulate(planner.system(deployment), requests)


def test_the_python_example_runs_and_prints_a_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = blocks("python")
    compile_simulator()  # its minute of search is not for that
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("FEASIBLE")
    assert "verdict" in printed


def test_the_problem_shown_is_the_quickstart() -> None:
    (shown,) = blocks("yaml")
    file = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8")
    without_comments = [line for line in file.splitlines() if not line.startswith("#")]
    assert shown.splitlines() == without_comments


def commands() -> list[str]:
    """Every command line in code marks or code blocks, without its arguments."""
    found = {match.strip() for match in COMMAND.findall(text())}
    return sorted(found - {""})


def test_the_readme_names_commands() -> None:
    named = {line.split()[0] for line in commands()}
    assert {"plan", "simulate", "compare", "explain", "schema"} <= named


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_readme_exists(line: str) -> None:
    done = CliRunner().invoke(app, [*line.split(), "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}
