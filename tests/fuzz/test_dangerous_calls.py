"""Nothing in the package runs a file's content, or a text as a command, except for the reasons given here."""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY

FORBIDDEN = {
    *("os.system", "os.popen", "os.execvp", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "marshal.loads",
        "shelve.open",
        "dill.load",
    ),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "joblib.load"),
    *("gopen", "tarfile.extractall", "shutil.unpack_archive"),
}
ALLOWED = {
    # The recipe's author wrote the command; names inserted into it are quoted.
    ("yolo/data/shards/store.py", "a shell"),
    # Emulated hosts of the benchmarks, on this machine: a constant line, and the stand-in for another host's sshd.
    ("yolo/emulation/host.py", "a shell"),
    ("yolo/emulation/remote/sshd.py", "a shell"),
}
SHELLS = ("sh", "bash", "/bin/sh", "/bin/bash", "SHELL")


def dangers(source: str) -> Iterator[str]:
    """The forbidden calls in a Python source, each as a short name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            program, *rest = [ast.unparse(each).strip("'") for each in node.elts[:2]] or [""]
            if program in SHELLS and rest == ["-c"]:
                yield "a shell"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN:
            yield name
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if keywords.get("shell", "False") != "False":
            yield "shell="
        if keywords.get("allow_pickle", "False") != "False":
            yield "allow_pickle="
        if name == "YAML" and keywords.get("typ") not in ("'safe'", "'rt'", "'string'"):
            yield "YAML that is not safe"


@pytest.mark.parametrize(
    "source",
    [
        *("torch.load(f)", "torch.load(f, weights_only=False)", "os.system(x)", "pickle.load(f)"),
        *("subprocess.run(x, shell=True)", "yaml.load(f)", "np.load(f, allow_pickle=True)"),
        *("Popen(['/bin/sh', '-c', x])", "eval(x)", "YAML(typ='unsafe')"),
    ],
)
def test_each_danger_is_seen(source: str) -> None:
    assert list(dangers(source))


def test_no_file_of_the_package_can_run_what_it_reads() -> None:
    found = []
    files = sorted((REPOSITORY / "yolo").rglob("*.py"))
    assert len(files) > 100
    for path in files:
        name = str(path.relative_to(REPOSITORY))
        found += [(name, danger) for danger in dangers(path.read_text())]
    assert sorted(found) == sorted(ALLOWED)  # each once
