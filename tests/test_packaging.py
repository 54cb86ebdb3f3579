"""The wheel holds what it needs, works from any directory, and constraints.txt pins it on every supported Python."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built through an sdist, from a copy that also holds data which must not be published."""
    copy = tmp_path_factory.mktemp("source") / "project"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "saved", "log*", "dataset")
    shutil.copytree(ROOT, copy, ignore=left_out)
    (copy / "dataset" / "private").mkdir(parents=True)
    (copy / "dataset" / "private" / "private.image.safetensors").write_bytes(b"")
    embedded = shutil.copytree(ROOT / "dataset" / "ml-100k", copy / "dataset" / "ml-100k")
    (embedded / "ml-100k.inter").write_text("user_id:token\titem_id:token\n")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds this wheel and, without a download, everything else we have."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    # Only now, so that pip saw an empty environment. A path in a .pth runs no other .pth, hence no editable install.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n" + sysconfig.get_path("platlib") + "\n")
    return home / "bin"


def run_elsewhere(command: list[str | Path], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_every_module_and_yaml_file(files):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "recbole_prism").rglob("*.py")}
    yamls = {"recbole_prism/" + str(path.relative_to(ROOT)) for path in (ROOT / "properties").rglob("*.yaml")}
    page = {f"recbole_prism/report/page.{suffix}" for suffix in ("css", "js")}
    assert modules and yamls
    assert modules | yamls | page <= files


def test_wheel_holds_the_embedded_features_and_no_other_data(files):
    data = {name.removeprefix("recbole_prism/dataset/") for name in files if name.startswith("recbole_prism/dataset/")}
    assert data == {"ml-100k/ml-100k.image.safetensors", "ml-100k/ml-100k.text.safetensors"}


def test_wheel_holds_nothing_outside_the_package(files):
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"recbole_prism"}


def test_metadata_names_version_licence_and_extras(metadata):
    source = (ROOT / "recbole_prism" / "version.py").read_text()
    assert metadata["Version"] == re.search(r'"(.+)"', source).group(1)
    assert metadata["License"] == "MIT" or metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"clip", "dev"} <= set(metadata.get_all("Provides-Extra"))


@pytest.mark.parametrize(("python", "wanted"), [("3.10", True), ("3.11", True), ("3.12", False), ("3.13", False)])
def test_plain_install_asks_for_recbole_only_where_its_ray_can_be_installed(metadata, python, wanted):
    assert ("recbole" in requirements(metadata, python)) is wanted
    assert "ray" not in requirements(metadata, python)


@pytest.mark.parametrize("platform", PLATFORMS, ids="-".join)
@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_requirement_once_and_within_its_range(metadata, python, platform):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if applies(pin, python, platform):
                name = canonicalize_name(pin.name)
                assert name not in pins, f"{name} is pinned twice for Python {python}"
                pins[name] = str(pin.specifier).removeprefix("==")
    wanted = requirements(metadata, python, platform, extras=["clip", "dev", "hyperopt"])
    assert not set(wanted) - set(pins)
    assert not {name: pins[name] for name, wish in wanted.items() if not wish.specifier.contains(pins[name])}
    assert pins["recbole"] == "1.2.1" and "ray" not in pins


def test_installed_wheel_finds_its_files_from_any_directory(installed, tmp_path):
    code = (
        "import recbole_prism, recbole_prism.paths as p, torch; "
        "print(recbole_prism.__version__, p.PROPERTIES, p.DATASETS, sep='\\n')"
    )
    version, properties, datasets = run_elsewhere([installed / "python", "-c", code], tmp_path).splitlines()[-3:]
    site = next((installed.parent / "lib").glob("python*/site-packages"))
    assert Path(properties) == site / "recbole_prism" / "properties"
    assert Path(datasets) == site / "recbole_prism" / "dataset"
    assert (Path(datasets) / "ml-100k" / "ml-100k.image.safetensors").stat().st_size > 0
    assert version in (ROOT / "recbole_prism" / "version.py").read_text()


def test_installed_wheel_reads_its_yaml_files_for_a_model(installed, tmp_path):
    code = (
        "import recbole_prism; from recbole.config import Config; "
        "config = Config(model='PRISM_SASRec', dataset='ml-100k'); print(sorted(config['modalities']))"
    )
    assert run_elsewhere([installed / "python", "-c", code], tmp_path).splitlines()[-1] == "['image', 'text']"


def test_console_script_runs_doctor_from_any_directory(installed, tmp_path):
    report = run_elsewhere([installed / "recbole-prism", "doctor"], tmp_path)
    for package in ("recbole", "torch", "numpy"):
        assert package in report


def requirements(metadata, python: str, platform=PLATFORMS[0], extras=("",)) -> dict[str, Requirement]:
    """What an installation with these extras asks for, by canonical name."""
    found = {}
    for requirement in map(Requirement, metadata.get_all("Requires-Dist")):
        if any(applies(requirement, python, platform, extra) for extra in extras):
            found[canonicalize_name(requirement.name)] = requirement
    return found


def applies(requirement: Requirement, python: str, platform=PLATFORMS[0], extra: str = "") -> bool:
    system, machine = platform
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": python + ".9",
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "platform_machine": machine,
        "extra": extra,
    }
    return requirement.marker is None or requirement.marker.evaluate(environment)
