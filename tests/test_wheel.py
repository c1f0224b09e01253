"""The built wheel, where there is no checkout: what is in it, what it needs, and what it does in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from repository import blocks, own_files, steps

ROOT = Path(__file__).parents[1]
NAME = "imdb-serving"
PLACE = "Prüf stand"
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
"""Root without its capabilities: what is not to be written cannot be."""


def packages_of(*extras: str) -> set[str]:
    """The packages that the installed one needs with these extras, and all that those need."""
    found: set[str] = set()

    def add(requirement: Requirement, extra: str) -> None:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            return
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            return
        found.add(name)
        for line in metadata.requires(name) or []:
            for one in ["", *requirement.extras]:
                add(Requirement(line), one)

    for line in metadata.requires(NAME) or []:
        for extra in ["", *extras]:
            add(Requirement(line), extra)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


class Installed:
    """An environment with the wheel, whose packages are read-only, and a folder to work in; others have a space too."""

    def __init__(self, wheel: Path, place: Path, packages: Path) -> None:
        self.folder = place / "Meine Läufe"
        self.folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")], timeout=60, check=True)
        self.bin = place / "env" / "bin"
        (self.packages,) = (place / "env" / "lib").glob("python*/site-packages")
        (self.packages / "dependencies.pth").write_text(f"{packages}\n", encoding="utf-8")
        install = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--no-deps",
            "--python",
            str(self.bin / "python"),
            str(wheel),
        ]
        subprocess.run(install, env={**os.environ, "PATH": SEARCHED}, timeout=60, check=True)
        for path in [self.packages, *self.packages.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_", "COVERAGE"))
        } | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *command: str, text: str = "", seconds: float = 250) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder, as a user who cannot write to the packages."""
        prefix = WITHOUT_RIGHTS if os.getuid() == 0 and shutil.which(WITHOUT_RIGHTS[0]) else []
        return subprocess.run(
            [*prefix, *command], cwd=self.folder, env=self.environment, input=text, capture_output=True, text=True,
            encoding="utf-8", timeout=seconds, check=False,
        )  # fmt: skip

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def unlock(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """With all extras: the packages of this environment."""
    place = tmp_path_factory.mktemp("all") / PLACE
    yield Installed(wheel, place, Path(sysconfig.get_path("purelib")))
    unlock(place)


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Without extras: links to what the plain server and client need."""
    place = tmp_path_factory.mktemp("plain") / PLACE
    links = place / "packages"
    links.mkdir(parents=True)
    for name in packages_of():
        for file in metadata.files(name) or []:
            top, path = file.parts[0], Path(str(metadata.distribution(name).locate_file(file.parts[0])))
            if top != ".." and path.exists() and not (links / top).exists():
                (links / top).symlink_to(path.resolve())
    yield Installed(wheel, place, links)
    unlock(place)


def test_it_has_the_package_with_notebooks_parameter_files_and_examples(wheel: Path) -> None:
    there = set(ZipFile(wheel).namelist())
    own = {path.relative_to(ROOT).as_posix() for path in own_files("imdb_serving/**")}
    laid_out = [path for name in ("notebooks", "params", "examples") for path in own_files(f"{name}/**")]
    own |= {f"imdb_serving/project/{path.relative_to(ROOT).as_posix()}" for path in laid_out}
    assert own <= there
    others = {name for name in there - own if ".dist-info/" not in name}
    assert {name for name in others if not (ROOT / name.replace("imdb_serving/project/", "")).exists()} == set()
    assert not [name for name in others if name.startswith(("tests", "outputs", "docs")) or "__pycache__" in name]


def test_it_says_what_it_is(wheel: Path) -> None:
    zipped = ZipFile(wheel)
    (name,) = [name for name in zipped.namelist() if name.endswith(".dist-info/METADATA")]
    head = zipped.read(name).decode().partition("\n\n")[0]
    assert {"Classifier: Typing :: Typed", "License-Expression: Apache-2.0", "Name: imdb-serving"} <= set(
        head.splitlines()
    )
    assert {"all", "lab", "paddle", "report", "folded", "import"} <= set(
        re.findall(r"^Provides-Extra: (.+)$", head, re.M)
    )
    assert not re.search(r"^Requires-Dist: .*(://|@)", head, re.MULTILINE)


def test_the_version_is_the_tags(wheel: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("imdb_serving", "notebooks", "params", "examples"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in ([*git, "init", "-q"], [*git, "add", "."], [*git, "commit", "-qm", "x"], [*git, "tag", "v3.4.5"]):
        subprocess.run(command, cwd=tmp_path, timeout=30, check=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "made"]
    subprocess.run(build, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["imdb_serving-3.4.5-py3-none-any.whl"]
    assert wheel.name.startswith("imdb_serving-")


def test_a_sweep_in_an_empty_folder(installed: Installed) -> None:
    """Its parameter file is written; what is measured and drawn is below the folder; the packages stay as they are."""
    if os.getuid() == 0 and shutil.which(WITHOUT_RIGHTS[0]):
        assert installed.run("touch", str(installed.packages / "mine")).returncode != 0
    done = installed.run("imdb-serving", "sweep", "--dry-run")
    assert (done.returncode, installed.files()) == (0, {"params/default.yaml"}), done.stderr
    path = installed.folder / "params" / "default.yaml"
    assert path.read_bytes() == (ROOT / "params" / "default.yaml").read_bytes()
    path.write_text("mode: socket\nengine: none\nserver_threads: [1]\nclient_threads: [1, 2]\nsamples: 60\nrounds: 2\n")
    done = installed.run("imdb-serving", "sweep")
    assert done.returncode == 0, done.stderr
    files = installed.files()
    assert files >= {"outputs/default/report.html", "outputs/default/ledger.jsonl", "outputs/default/verdict.txt"}
    assert {name.split("/")[0] for name in files} == {"params", "outputs"}
    assert not (installed.packages / "imdb_serving" / "__pycache__").exists()


def test_notebooks_are_laid_out_and_kept_when_changed(installed: Installed) -> None:
    done = installed.run("imdb-serving", "notebooks", "laid out")
    assert done.returncode == 0, done.stderr
    folder = installed.folder / "laid out"
    assert {path.name for path in folder.iterdir()} == {"notebooks", "params", "examples"}
    assert {path.name for path in (folder / "notebooks").iterdir()} == {
        path.name for path in own_files("notebooks/*.ipynb")
    }
    assert all(os.access(path, os.W_OK) for path in folder.rglob("*"))
    (folder / "params" / "smoke.yaml").write_text("mode: rpc\n")
    done = installed.run("imdb-serving", "notebooks", "laid out")
    assert "kept laid out/params/smoke.yaml" in done.stdout
    assert (folder / "params" / "smoke.yaml").read_text() == "mode: rpc\n"
    done = installed.run("imdb-serving", "notebooks", "laid out", "--replace")
    assert "kept" not in done.stdout
    assert (folder / "params" / "smoke.yaml").read_bytes() == (ROOT / "params" / "smoke.yaml").read_bytes()


def test_a_notebook_that_was_laid_out_runs_with_papermill(installed: Installed) -> None:
    assert installed.run("imdb-serving", "notebooks", "mine").returncode == 0
    grid, out = "mine/notebooks/grid.ipynb", "mine/out.ipynb"
    given = ["-p", "engine", "none", "-p", "server_threads", "2", "-p", "client_threads", "1", "-p", "samples", "60"]
    cwd = ["--cwd", "mine/notebooks"]
    done = installed.run("python", "-m", "papermill", grid, out, *given, *cwd)
    assert done.returncode == 0, done.stderr
    assert [name for name in installed.files() if name.startswith("mine/outputs/")]


@pytest.mark.slow
def test_a_sweep_trains_where_there_is_no_model(installed: Installed) -> None:
    path = installed.folder / "params" / "default.yaml"
    installed.run("imdb-serving", "sweep", "--dry-run")
    values = yaml.safe_load((ROOT / "params" / "default.yaml").read_text(encoding="utf-8"))
    small = {"client_threads": [1, 2], "samples": 200, "rounds": 2, "extra_rounds": 0, "ladder_rounds": 2}
    path.write_text(yaml.safe_dump(values | small))
    done = installed.run("imdb-serving", "sweep", "--fresh", seconds=290)
    assert done.returncode == 0, done.stderr
    assert "training cnn" in done.stdout + done.stderr
    assert installed.files() >= {
        "outputs/default/report.html",
        "outputs/models/cnn/serving_server_model/inference.onnx",
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_models_of_ones_own_from_an_empty_folder(installed: Installed) -> None:
    """The examples of docs/own_model.md as a new user does them, up to the requests to our own model."""
    folder = installed.folder / "own"
    folder.mkdir()
    done = [
        step
        for block in blocks(ROOT / "docs" / "own_model.md")
        if block.language == "sh"
        for step in steps(block)
        if not step.startswith("pip install")
    ]
    first = done[: next(place for place, step in enumerate(done) if "outputs/models/cnn" in step)]
    assert {"imdb-serving notebooks .", "imdb-serving sweep params/own_model.yaml"} < set(first)
    for step in first:
        found = installed.run("bash", "-c", f"cd own && {step}", seconds=400)
        assert found.returncode == 0, f"{step}\n{found.stdout[-2000:]}\n{found.stderr[-2000:]}"
    for name in ("own_model", "own_tfidf"):
        assert installed.files() >= {f"own/outputs/{name}/report.html", f"own/outputs/{name}/verdict.txt"}


def test_the_plain_one_needs_neither_jupyterlab_paddle_nor_scipy() -> None:
    names = packages_of()
    assert names >= {"flask", "numpy", "onnxruntime", "pyzmq"}
    heavy = {"jupyterlab", "paddlepaddle", "scipy", "pandas", "matplotlib", "pyarrow", "numba", "onnx", "papermill"}
    assert names & heavy == set()
    assert packages_of("all") >= heavy


@pytest.mark.slow
def test_the_plain_one_is_less_than_60_megabytes_to_fetch(wheel: Path) -> None:
    """As wheels are: their files, each deflated."""
    fetched = wheel.stat().st_size
    for name in packages_of():
        for file in metadata.files(name) or []:
            path = Path(str(file.locate()))
            if path.is_file() and path.suffix != ".pyc":
                fetched += len(zlib.compress(path.read_bytes()))
    assert fetched < 60e6, f"{fetched / 1e6:.1f} MB"


def test_the_plain_one_serves_a_model_and_asks_it(plain: Installed, bundle: Path) -> None:
    model = str(bundle)
    done = plain.run("imdb-serving", "predict", model, "--engine", "onnxruntime", text="a good film\n")
    assert done.returncode == 0, done.stderr
    assert re.search(r"positive|negative", done.stdout)
    script = (
        "import sys\nfrom imdb_serving import ServerProcess, connect\n"
        f"with ServerProcess([{model!r}, '--engine', 'onnxruntime'], command=sys.argv[1]) as server:\n"
        "    with connect(server.endpoint) as client:\n"
        "        print(client.predict({'words': 'a good film'}))\n"
    )
    for command in ("serve", "flask"):
        done = plain.run("python", "-c", script, command)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["sweep"], "all"),
        (["sweep", "params/default.yaml"], "report"),
        (["report", "."], "report"),
        (["serve", "MODEL", "--engine", "paddle"], "paddle"),
        (["serve", "MODEL", "--engine", "folded"], "folded"),
        (["predict", "MODEL", "--engine", "folded"], "folded"),
        (["train"], "paddle"),
        (["import", "MODEL/serving_server_model/inference.onnx"], "import"),
    ],
)
def test_what_the_plain_one_cannot_do_names_its_extra(
    plain: Installed, bundle: Path, command: list[str], extra: str
) -> None:
    done = plain.run("imdb-serving", *(word.replace("MODEL", str(bundle)) for word in command))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'imdb-serving[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_folded_runs_where_no_folder_can_be_written(installed: Installed, bundle: Path) -> None:
    """Numba refuses to compile what it is to keep, and has no folder for."""
    home = ["env", "HOME=/proc/none", "XDG_CACHE_HOME=/proc/none"]
    done = installed.run(*home, "imdb-serving", "predict", str(bundle), "--engine", "folded", text="a good film\n")
    assert done.returncode == 0, done.stderr
    assert re.search(r"positive|negative", done.stdout)
