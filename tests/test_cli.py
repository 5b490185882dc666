import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.conftest import LIBRARIES_ALONE, REPOSITORY, processor_seconds

MODULE = (sys.executable, "-m", "yolo")


def yolo(*arguments: str, command: tuple[str, ...] = MODULE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [*command, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this tree's package; the dependencies are those of the present environment."""
    folder = tmp_path_factory.mktemp("installed")
    source, environment = folder / "source", folder / "venv"
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "yolo", source / "yolo", ignore=without_caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    dependencies = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (dependencies / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall"]
    subprocess.run([*pip, *options, str(source)], check=True)
    return environment


@pytest.mark.slow(15)
def test_an_installed_package_has_every_file_and_nothing_of_the_tests(environment: Path) -> None:
    (installed,) = environment.glob("lib/*/site-packages/yolo")
    assert not (installed.parent / "tests").exists()

    def files(package: Path) -> set[Path]:
        found = (path for path in package.rglob("*") if path.is_file())
        return {path.relative_to(package) for path in found if "__pycache__" not in path.parts}

    assert files(installed) == files(REPOSITORY / "yolo")
    ssh = installed / "emulation" / "remote" / "bin" / "ssh"
    assert os.access(ssh, os.X_OK)


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("check", "recipes/demo.yaml"),
        ("train", "recipes/demo.yaml", "--epochs=3"),
        ("train", "recipes/nowhere.yaml"),
        (),
    ],
)
def test_the_command_and_the_module_behave_the_same(
    environment: Path, arguments: tuple[str, ...]
) -> None:
    by_command = yolo(*arguments, command=(str(environment / "bin" / "yolo"),))
    by_module = yolo(*arguments)
    assert by_command.returncode == by_module.returncode
    # The environment of the command has no MPI, and this one may have it.
    said, expected = (
        [line for line in ran.stdout.splitlines() if not line.startswith("backends: ")]
        for ran in (by_command, by_module)
    )
    assert said == expected
    assert by_command.stderr == by_module.stderr


def test_the_version_is_printed() -> None:
    ran = yolo("--version")
    assert ran.returncode == 0
    assert re.fullmatch(r"yolo \d+\.\d+\.\d+\n", ran.stdout)


def test_what_builds_the_package_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    pinned = (REPOSITORY / "requirements.txt").read_text()
    for requirement in project["build-system"]["requires"]:
        assert f"\n{re.split('[<>=]', requirement)[0]}==" in pinned


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--epochs=3",), "write train.epochs=3"),
        (("--epochs", "3"), "write train.epochs=3"),
        (("--batch-size", "16", "cluster.nodes=2"), "write train.global_batch=16"),
        (("--mode=offline",), "write tracking.wandb.mode=offline"),
        (("--imgsz",), "write model.image_size=VALUE"),
        (("--dryrun",), "Did you mean '--dry-run'?"),
    ],
)
def test_an_unknown_option_names_the_override_or_the_nearest_option(
    words: tuple[str, ...], hint: str
) -> None:
    ran = yolo("train", "recipes/demo.yaml", *words)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: yolo train ")
    assert ran.stderr.endswith(f"{hint}\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(("tr",), "train"), (("train", "--d"), "--dry-run"), (("train", "LIC"), "LICENSE")],
)
def test_bash_completes_commands_options_and_files(typed: tuple[str, ...], offered: str) -> None:
    words = " ".join(("yolo", *typed))
    script = (
        f"source /dev/stdin; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_yolo; "
        "printf %s ${COMPREPLY[@]}"
    )
    completion = yolo("completion", "bash")
    assert completion.returncode == 0
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        input=completion.stdout,
        capture_output=True,
        text=True,
    )
    assert ran.stdout == offered, ran.stderr


def test_check_ends_with_0_for_a_good_recipe_and_says_so() -> None:
    ran = yolo("check", "recipes/demo.yaml", "recipes/bccd.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "recipes/demo.yaml: OK for 2 ranks" in ran.stdout


def test_check_says_what_this_machine_lacks(tmp_path: Path) -> None:
    overrides = (f"data.root={tmp_path / 'gone'}", "model.weights=gone.safetensors")
    ran = yolo("check", "recipes/demo.yaml", *overrides, "cluster.nodes=2")
    assert ran.returncode == 0, ran.stderr
    ok, missing = ran.stdout.splitlines()[-1].split("; not on this machine: ")
    assert ok == "recipes/demo.yaml: OK for 4 ranks"
    for lack in (f"data.root: {tmp_path / 'gone'}: ", "gone.safetensors: ", "set cluster.hostfile"):
        assert lack in missing
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    for split in ("train", "val"):
        lacking = yolo("check", "recipes/demo.yaml", f"data.root={tmp_path}")
        assert (
            f"data.{split}: {annotations / f'instances_{split}.json'}: no such file"
            in lacking.stdout
        )
        (annotations / f"instances_{split}.json").touch()
    present = yolo("check", "recipes/demo.yaml", f"data.root={tmp_path}")
    assert "not on this machine" not in present.stdout
    assert present.returncode == 2 and "instances_train.json: is not JSON" in present.stderr


def test_a_missing_package_is_one_line() -> None:
    code = "import sys, runpy; sys.argv = ['yolo', 'check', 'recipes/demo.yaml'];"
    code += "sys.modules['ruamel'] = None; runpy.run_module('yolo', run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith(f"ruamel: {sys.executable} has no such package; `make setup`")


def test_check_ends_with_2_and_one_line_for_a_misspelt_key(tmp_path: Path) -> None:
    recipe = tmp_path / "x.yaml"
    recipe.write_text("description: x\ntrain:\n  epoch: 3\n")
    ran = yolo("check", str(recipe))
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith(
        f"{recipe}:3: train.epoch: there is no such key. Did you mean 'epochs'?"
    )


def test_check_reports_every_bad_recipe(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("description: x\ntrain: {epochs: 0}\n")
    ran = yolo("check", str(tmp_path / "a.yaml"), "recipes/demo.yaml", str(tmp_path / "b.yaml"))
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 2
    assert "recipes/demo.yaml: OK" in ran.stdout


def test_check_needs_no_torch_and_answers_at_once() -> None:
    code = (
        "import sys; from yolo.cli import main; main(['check', 'recipes/demo.yaml', 'data.root=/nowhere']);"
        "assert not {'torch', 'deepspeed', 'numpy', 'cv2'} & set(sys.modules)"
    )
    assert processor_seconds(code) < 4 * processor_seconds(LIBRARIES_ALONE)


def test_config_prints_recipe_and_deepspeed_json_for_any_number_of_ranks() -> None:
    ran = yolo("config", "recipes/coco/yolov5s.yaml", "--world-size", "16", "--json")
    shown = json.loads(ran.stdout)
    assert shown["recipe"]["train"]["micro_batch"] == 8
    assert shown["deepspeed"]["train_micro_batch_size_per_gpu"] == 8
    assert shown["deepspeed"]["train_batch_size"] == 128


def test_config_shows_where_each_value_came_from() -> None:
    ran = yolo("config", "recipes/coco/yolov5m.yaml", "train.epochs=9", "--world-size", "8")
    assert ran.returncode == 0
    lines = {line.split(":")[0].strip(): line for line in ran.stdout.splitlines()}
    assert lines["epochs"].endswith("# override: train.epochs=9")
    assert "# parent recipe: recipes/coco/yolov5s.yaml:" in lines["image_size"]
    assert "# auto: largest divisor of" in lines["micro_batch"]


def test_recipes_lists_each_with_its_line() -> None:
    ran = yolo("recipes")
    assert ran.returncode == 0
    rows = [line for line in ran.stdout.splitlines() if line.startswith("recipes/")]
    assert len(rows) == len(list((REPOSITORY / "recipes").rglob("*.yaml")))
    assert "blood cells in photographs" in ran.stdout


def test_schema_prints_the_reference_page_and_the_json_schema() -> None:
    assert "| `train.global_batch` |" in yolo("schema").stdout
    assert "train" in json.loads(yolo("schema", "--json").stdout)["properties"]


def test_train_prints_the_launchers_command() -> None:
    ran = yolo(
        "train", "recipes/demo.yaml", "cluster.master_port=29777", "train.epochs=3", "--dry-run"
    )
    assert ran.returncode == 0, ran.stderr
    words = "--log_level error --num_accelerators 2 --master_port 29777 --module yolo.train"
    assert re.search(f"deepspeed'? {words}", ran.stdout)
    assert ran.stdout.rstrip().endswith("train.epochs=3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "recipes/nowhere.yaml"), "no such file"),
        (("train", "recipes/demo.yaml", "recipes/bccd.yaml"), "expected one recipe"),
        (("train", "recipes/demo.yaml", "train.epochs", "3"), "one word, section.key=value"),
        (("check", "recipes/bcd.yaml"), "Did you mean 'bccd.yaml'?"),
        (("check", "recipes"), "recipes: is a folder; name a recipe (*.yaml) in it"),
        (
            ("train", "recipes/demo.yaml", "data.root=.", "data.val=README.md"),
            "data.train: annotations/",
        ),
        (("config", "train.epochs=3"), "no recipe named"),
        (("config", "recipes/demo.yaml", "--write", "/proc/nope"), "/proc/nope: No such file"),
        (
            ("eval", "--weights", "w", "--data", "d", "--json", "README.md/out.json"),
            "README.md: ",
        ),
        (
            ("check", "recipes/demo.yaml", "deepspeed.gradient_predivide_factor=0.0"),
            "gradients are divided by it; remove it",
        ),
        (("recipes", "tests/recipe"), "no recipes (*.yaml) there"),
        (("train", "recipes/demo.yaml", "checkpoint.resume=nowhere"), "no such run"),
    ],
)
def test_mistakes_end_with_2_and_one_line(arguments: tuple[str, ...], message: str) -> None:
    ran = yolo(*arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("config", "recipes/demo.yaml", "--world-size", "0"),
            "0: expected a whole number, 1 or more",
        ),
        (
            ("eval", "--weights", "w", "--data", "d", "--batch", "0"),
            "0: expected a whole number, 1 or more",
        ),
        (("detect", "a.jpg", "--weights", "w", "--confidence", "1.5"), "expected a number from 0"),
        (("detect", "a.jpg", "--weights", "w", "--iou", "-1"), "expected a number from 0 to 1"),
        (("detect", "a.jpg", "--weights", "w", "--iou", "high"), "high: expected a number"),
    ],
)
def test_an_option_out_of_range_is_named(arguments: tuple[str, ...], message: str) -> None:
    ran = yolo(*arguments)
    assert ran.returncode == 2
    assert message in ran.stderr.splitlines()[-1]


WORDS = "[section.key=value ...]"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("check", f"RECIPE ... {WORDS}"),
        ("config", f"RECIPE ... {WORDS}"),
        ("recipes", "[folder]"),
        ("schema", "[--json]"),
        ("plan", f"RECIPE {WORDS}"),
        ("calibrate", f"RECIPE {WORDS}"),
        ("train", f"RECIPE {WORDS}"),
        ("eval", "[--batch BATCH]"),
        ("detect", "images [images ...]"),
        ("shard", f"RECIPE OUT {WORDS}"),
        ("import", "checkpoint out"),
        ("export", "weights out"),
        ("completion", "{bash,zsh,tcsh}"),
    ],
)
def test_every_command_explains_itself(command: str, arguments: str) -> None:
    ran = yolo(command, "--help")
    assert ran.returncode == 0
    usage = " ".join(ran.stdout.split("\n\n")[0].split())
    assert usage.startswith(f"usage: yolo {command} [-h] ")
    assert usage.endswith(f" {arguments}")
    assert usage.count("RECIPE") <= 1


def test_the_launched_module_says_how_it_is_started_when_it_was_not_launched() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    command = [sys.executable, "-m", "yolo.train", "--recipe", "recipes/demo.yaml"]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "yolo.train is started by a launcher" in ran.stderr
