"""The repository itself: dependencies, imports, make targets, documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.version import Version
from repository import own_files

import imdb_serving
from imdb_serving.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = [*own_files("*.md"), *own_files("docs/*.md")]
CITED = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGES = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
PACKAGE = sorted((ROOT / "imdb_serving").rglob("*.py"))
LOCKS = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("requirements*.lock"))]
PINS = [
    [Requirement(line.rstrip(" \\")) for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)] for lock in LOCKS
]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
OWN = PYPROJECT["project"]["name"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**kept, "PATH": path}
    )


def bounds(lines: list[str]) -> dict[str, str]:
    """Name to version bounds, however they are spelled, without the extras of this project."""
    wanted = [Requirement(line) for line in lines]
    return {one.name.lower().replace("_", "-"): str(one.specifier) for one in wanted if one.name != OWN}


def of_extras(*names: str) -> list[str]:
    """What extras ask for, and what the extras of this project that they name ask for."""
    found: list[str] = []
    for line in [line for name in names for line in EXTRAS[name]]:
        one = Requirement(line)
        found += of_extras(*one.extras) if one.name == OWN else [line]
    return found


def test_conda_and_pip_install_the_same() -> None:
    file = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in file["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in file["dependencies"] if isinstance(entry, dict)]
    assert pip[-1] == "--editable ."
    named = bounds([*(entry for entry in conda if entry != "pip"), *pip[:-1]])
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *of_extras("all"), f"python{project['requires-python']}"]
    assert named == bounds(wanted)


def test_the_lock_satisfies_every_bound() -> None:
    wanted = bounds([*PYPROJECT["project"]["dependencies"], *of_extras("all", "servers", "models", "test")])
    for name, specifier in wanted.items():
        pins = [pin for lock in PINS for pin in lock if pin.name.lower() == name]
        versions = [Version(next(iter(pin.specifier)).version) for pin in pins]
        assert versions, f"{name} is not locked"
        allowed = Requirement(f"{name}{specifier}").specifier
        assert all(version in allowed for version in versions), name


@pytest.mark.parametrize(("text", "pins"), list(zip(LOCKS, PINS, strict=True)))
def test_a_lock_pins_every_package_with_hashes_and_names_no_host(text: str, pins: list[Requirement]) -> None:
    assert pins
    assert all([one.operator for one in pin.specifier] == ["=="] and pin.url is None for pin in pins)
    assert len(re.findall(r"^[A-Za-z0-9].*\\$\n^    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(pins)
    assert not re.search(r"://|--index-url|--extra-index-url|--find-links|--trusted-host|^-i\b", text, re.MULTILINE)


def test_a_sweep_installs_no_tool_of_the_tests() -> None:
    (sweep,) = [{pin.name for pin in pins} for pins in PINS if "paddlepaddle" in {pin.name for pin in pins}]
    assert sweep >= {"papermill", "matplotlib", "numba", "tokenizers", "uv", "hatchling"}
    others = {
        "jupyterlab",
        "ipywidgets",
        "fastapi",
        "scikit-learn",
        "hypothesis",
        "mypy",
        "playwright",
        "pytest",
        "ruff",
    }
    assert sweep & others == set()
    assert {pin.name for pins in PINS for pin in pins} >= others


def test_imports_point_one_way() -> None:
    done = run("lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(PYPROJECT['tool']['importlinter']['contracts'])} kept, 0 broken" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["paddle", "zmq", "numpy", "pandas", "matplotlib", "papermill", "yaml", "msgspec", "click"]
    code = f"import sys, imdb_serving; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout == "[]\n"


def test_the_help_loads_neither_paddle_nor_zmq_nor_pandas() -> None:
    code = (
        "import sys\nfrom imdb_serving.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print([name for name in ['paddle', 'zmq', 'numpy', 'pandas'] if name in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout.endswith("\n[]\n")


@pytest.mark.parametrize("name", imdb_serving.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(imdb_serving, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RpcCleint'"):
        _ = imdb_serving.RpcCleint


def test_what_a_client_sends_is_read_without_pickle() -> None:
    wire = (ROOT / "imdb_serving" / "protocol" / "wire.py").read_text(encoding="utf-8")
    assert "pickle" not in wire
    assert "recv_pyobj" not in "".join(path.read_text(encoding="utf-8") for path in PACKAGE)


def make_targets() -> list[str]:
    listed = run("make", "--no-print-directory", "help")
    assert listed.returncode == 0, listed.stderr
    return [line.split()[0] for line in listed.stdout.splitlines()]


def test_make_alone_lists_the_targets() -> None:
    assert run("make", "--no-print-directory").stdout == run("make", "--no-print-directory", "help").stdout


def test_every_target_is_listed_and_every_listed_one_exists() -> None:
    listed = make_targets()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
    for target in listed:
        done = run("make", "--no-print-directory", "-n", target)
        assert done.returncode == 0, f"{target}: {done.stderr}"


def test_files_in_git_are_small() -> None:
    listed = run("git", "ls-files", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [str(path) for path in files if path.is_file() and path.stat().st_size >= 1 << 20]


def test_files_named_in_the_architecture_exist() -> None:
    names = re.findall(r"`([\w/]+\.(?:py|js|ipynb))`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in own_files("**/*")]
    assert [name for name in names if not any(file.endswith(f"/{name}") for file in files)] == []
    assert len(names) > 50


def code_of(text: str) -> Iterator[str]:
    """The fenced blocks and the code spans of a page, continued lines joined."""
    fenced = re.compile(r"^ *```.*?\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    yield from fenced.findall(text.replace("\\\n", " "))
    yield from re.findall(r"`([^`\n]+)`", fenced.sub("", text))


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Every `imdb-serving COMMAND` with the options that follow it; what is quoted are options of others."""
    text = re.sub(r"(?<!\w)'[^'\n]*'", "''", text)
    found = re.findall(r"(?<![\w/-])imdb-serving +([a-z][a-z-]*)([^|>&;#\n]*)", text)
    return [(name, re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", rest)) for name, rest in found]


def check_commands(commands: list[tuple[str, list[str]]]) -> None:
    for name, options in commands:
        assert name in main.commands, f"there is no command {name}"
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(options) <= known | {"--help"}, f"imdb-serving {name} has no such option"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_commands_and_options_in_documents_exist(page: Path) -> None:
    check_commands([command for code in code_of(page.read_text(encoding="utf-8")) for command in commands_in(code)])


@pytest.mark.parametrize("name", sorted(main.commands))
def test_commands_and_options_in_the_help_and_errors_exist(name: str) -> None:
    page = main.commands[name].get_help(click.Context(main.commands[name], info_name=name))
    examples = commands_in(page.replace("Usage:", ""))
    assert name in [command for command, _ in examples], f"the help of {name} has no example"
    check_commands(examples)


def test_commands_of_the_makefile_exist() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(RUN)", "imdb-serving")
    commands = commands_in("\n".join(line for line in text.splitlines() if line.startswith("\t@imdb-serving")))
    assert {name for name, _ in commands} >= {"train", "sweep", "report"}
    check_commands(commands)


def test_the_version_is_one() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["source"] == "vcs"
    assert run("imdb-serving", "--version").stdout.strip().endswith(imdb_serving.__version__)
    assert CHANGES[0] in {f"{CITED['version']} (unreleased)", CITED["version"]}


def test_notebooks_and_yaml_are_valid() -> None:
    for path in own_files("notebooks/*.ipynb"):
        assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4


def test_the_workflow_and_the_container_call_targets_that_are_there() -> None:
    """Continuous integration and a container for development have the two commands and nothing of their own."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    tasks = container["customizations"]["vscode"]["tasks"]["tasks"]
    commands = [*steps, container["postCreateCommand"], *(task["command"] for task in tasks)]
    assert {command.split()[1] for command in commands} <= set(make_targets())
    assert {"make sweep", "make test"} <= {" ".join(command.split()[:2]) for command in commands}
    for named in re.findall(r"PARAMS=(\S+)", " ".join(commands)):
        assert (ROOT / named).is_file()


def test_the_citation_and_the_classifiers_say_what_the_package_says() -> None:
    project = PYPROJECT["project"]
    assert CITED["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors", "type"} <= CITED.keys()
    pythons = {one.rpartition(" :: ")[2] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)}
    assert pythons == {"3.10", "3.11", "3.12", "3.13"}
    assert "Typing :: Typed" in project["classifiers"]
    assert (ROOT / "imdb_serving" / "py.typed").is_file()


def test_the_container_serves_as_another_user_than_root() -> None:
    """Each step of the Dockerfile, as far as that can be told where there is no Docker."""
    steps = [(one["instruction"], one["value"]) for one in DockerfileParser(str(ROOT / "Dockerfile")).structure]
    assert {name for name, _ in steps} <= {
        "COMMENT", "ARG", "CMD", "COPY", "ENTRYPOINT", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR",
    }  # fmt: skip
    images = [value.split()[0] for name, value in steps if name == "FROM"]
    assert all(re.fullmatch(r"python:3\.1[0-3]-slim", image) for image in images)
    places = [name for name, _ in steps]
    last = len(places) - 1 - places[::-1].index("FROM")
    assert places.index("USER") > last
    for copied in [value for name, value in steps if name == "COPY" and "--from" not in value]:
        assert all((ROOT / source).exists() for source in copied.split()[:-1])
    for script in [value for name, value in steps if name == "RUN"]:
        assert subprocess.run(["sh", "-n", "-c", script], timeout=10, check=False).returncode == 0
    (entry,) = [json.loads(value) for name, value in steps if name == "ENTRYPOINT"]
    (command,) = [json.loads(value) for name, value in steps if name == "CMD"]
    (ports,) = [value.split() for name, value in steps if name == "EXPOSE"]
    assert entry == ["imdb-serving"]
    context = main.commands[command[0]].make_context(command[0], command[1:])
    assert (context.params["host"], str(context.params["port"]) in ports) == ("0.0.0.0", True)


def test_what_the_container_is_made_of_is_not_ignored() -> None:
    copied = {
        "imdb_serving",
        "notebooks",
        "params",
        "examples",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "requirements.lock",
    }
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert (lines[0], {line[1:] for line in lines if line.startswith("!")}) == ("*", copied)


def test_the_versions_of_the_container_are_constraints_for_pip() -> None:
    """Without hashes and without extras, which pip takes in no constraint."""
    (script,) = re.findall(r"sed -n '(.*?)' requirements.lock", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = run("sed", "-n", script, "requirements.lock").stdout.splitlines()
    found = [Requirement(line) for line in lines]
    assert all(str(one.specifier).startswith("==") and not one.extras for one in found)
    assert {"numpy", "onnxruntime", "flask"} <= {one.name for one in found}
