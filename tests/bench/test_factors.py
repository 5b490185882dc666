"""The benchmark of communication's factors, small, on emulated hosts."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, needs_a_cluster
from tests.forking.server import run_forked
from yolo.bench.factors.__main__ import main
from yolo.bench.factors.figure import figure
from yolo.bench.factors.mpi import MPICH
from yolo.bench.factors.rows import FactorResults, ProtocolRow, formula_bytes, read_results
from yolo.bench.factors.steps import MODES, CaseTiming, Factor, cases
from yolo.bench.factors.tables import markdown
from yolo.emulation.link_check import wire_bytes

SIZES = (1024, 1_048_576)
MEASURED = ("gloo", *(["MPICH"] if MPICH.absence() is None else []))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> FactorResults:
    folder = tmp_path_factory.mktemp("results")
    command = (
        *(sys.executable, "-m", "yolo.bench.factors", "--factors", "protocol,model"),
        *("--protocols", "gloo,mpich,ucc", "--bandwidths", "200", "--link", "200"),
        *("--sizes", ",".join(map(str, SIZES)), "--variants", "n", "--steps", "2"),
        *("--out", str(folder)),
    )
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR, folder / "log")
    assert ran.returncode == 0, ran.stdout
    assert (folder / "factors.png").stat().st_size > 10_000
    assert "yolov5x | 86.2 | not measured" in (folder / "factors.md").read_text()
    return read_results(folder / "factors.json")


@pytest.mark.slow(25)
@needs_a_cluster
def test_protocols_that_are_here_take_the_link_and_the_others_say_why_not(
    found: FactorResults,
) -> None:
    measured = [(row.protocol, row.payload_bytes) for row in found.protocols]
    assert measured == [(name, size) for name in MEASURED for size in SIZES]
    for row in found.protocols:
        assert row.is_valid, row
        assert row.seconds_low <= row.seconds <= row.seconds_high
    largest = [row for row in found.protocols if row.payload_bytes == SIZES[-1]]
    for row in largest:
        assert 20 < row.bus_mbps < 200 * 0.97, row
    reasons = {each.protocol: each.reason for each in found.absent}
    assert "built without it" in reasons["UCC"]
    assert set(reasons) | set(MEASURED) == {"gloo", "MPICH", "UCC"}


@needs_a_cluster
def test_a_step_sends_the_bytes_of_the_formula(found: FactorResults) -> None:
    (case,) = found.of(Factor.MODEL)
    # Acknowledgements, and the counts of boxes.
    assert 1 <= case.wire_bytes_per_rank_per_step / formula_bytes("n") < 1.04


@pytest.mark.skipif(find_spec("mpi4py") is not None, reason="mpi4py is installed")
def test_without_mpi4py_the_table_says_how_to_get_it() -> None:
    assert "make setup-mpi" in (MPICH.absence() or "")


def protocol_row(wire: float) -> ProtocolRow:
    return ProtocolRow(
        payload_bytes=2**20,
        calls=7,
        seconds=0.04,
        seconds_low=0.03,
        seconds_high=0.05,
        wire_bytes=wire,
        busy_cores=0.5,
        protocol="MPICH",
        bandwidth_mbps=300.0,
    )


@pytest.mark.parametrize(
    ("share", "is_valid"), [(0.0, False), (0.5, False), (1.0, True), (1.03, True), (1.2, False)]
)
def test_an_all_reduce_that_goes_round_the_link_is_not_valid(share: float, is_valid: bool) -> None:
    row = protocol_row(wire_bytes(2**20) * share)
    assert row.is_valid is is_valid
    assert ("not valid" in markdown(FactorResults("here", 300.0, (row,)))) is not is_valid
    assert row.bus_mbps == pytest.approx(2**20 * 8e-6 / 0.04)


def timing(strategy: str, factor: Factor, images: int, size: int, seconds: float) -> CaseTiming:
    return CaseTiming(
        strategy=strategy,
        images=images,
        image_size=size,
        step_seconds=seconds,
        step_seconds_low=seconds * 0.9,
        step_seconds_high=seconds * 1.1,
        wire_bytes_per_rank_per_step=7.4e6,
        sent_bytes_per_rank_per_step=7.1e6,
        metered_bytes_per_rank_per_step=7.4e6,
        collectives_per_step=3.0,
        parameter_bytes=0,
        gradient_bytes=0,
        optimizer_bytes=0,
        factor=factor,
        label=strategy,
        variant="n",
    )


def test_tables_set_computing_apart_and_bytes_per_image() -> None:
    timings = [
        timing(strategy, factor, images, 128, seconds)
        for factor in (Factor.MODE, Factor.DATA)
        for images in (1, 4)
        for strategy, seconds in (("compute", 0.1), ("zero0", 0.3))
    ]
    results = FactorResults("here", 300.0, cases=tuple(timings))
    text = markdown(results)
    assert "| zero0 | 300 (270 to 330) | 200 | 7.40 | 3 |" in text
    assert "| 4 | 128 | 300 (270 to 330) | 200 | 7.40 | 1.85 | 13.3 |" in text
    assert len(figure(results).axes) == 6
    alone = replace(results, cases=tuple(each for each in timings if each.strategy != "compute"))
    assert "| zero0 | 300 (270 to 330) |  | 7.40 | 3 |" in markdown(alone)


def test_each_factor_varies_one_thing() -> None:
    found = cases([*Factor], ["n", "s"], 8)
    modes = [case for case in found if case.factor == Factor.MODE]
    assert [case.strategy for case in modes] == list(MODES)
    assert {(case.workload, case.variant) for case in modes} == {((1, 448), "n")}
    models = [case for case in found if case.factor == Factor.MODEL]
    assert {(case.workload, case.strategy.name) for case in models} == {((1, 64), "zero0")}
    assert [case.variant for case in models] == ["n", "s"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--factors", "speed"), "--factors speed: expected some of protocol, mode"),
        (("--protocols", "mpi"), "--protocols mpi: expected some of gloo, mpich, open_mpi"),
        (("--variants", "n,q"), "--variants q: expected some of n, s"),
        (("--sizes", "2"), "--sizes 2: expected 4 bytes or more"),
    ],
)
@needs_a_cluster
def test_a_wrong_name_is_one_line_before_anything_starts(
    option: tuple[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*option, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
