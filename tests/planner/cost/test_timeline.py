import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo.planner.cost.collectives import Cost
from yolo.planner.cost.timeline import CommEvent, Compute, Event, StepTime, Timeline, Wait

NOTHING = Cost(0.0)


def play(*events: tuple[Event, Cost], slowdown: float = 0.0) -> StepTime:
    return Timeline(slowdown).play(events)


def compute(seconds: float) -> tuple[Event, Cost]:
    return Compute(seconds, "backward"), NOTHING


def send(seconds: float, is_waited: bool = False, core_share: float = 0.0) -> tuple[Event, Cost]:
    return CommEvent("all_reduce", 1, is_waited), Cost(seconds, core_share)


def test_what_is_waited_for_adds_up() -> None:
    time = play(compute(1.0), send(2.0, is_waited=True), compute(1.0))
    assert time.seconds == pytest.approx(4.0)
    assert time.exposed_seconds == pytest.approx(2.0)


def test_what_computing_hides_costs_nothing() -> None:
    time = play(send(2.0), compute(3.0), (Wait(), NOTHING))
    assert time.seconds == pytest.approx(3.0)
    assert time.exposed_seconds == pytest.approx(0.0)


def test_collectives_take_turns() -> None:
    time = play(send(2.0), send(2.0), compute(3.0), (Wait(), NOTHING))
    assert time.seconds == pytest.approx(4.0)


def test_who_begins_behind_others_spares_some_of_its_latency() -> None:
    cost = Cost(2.0, spared_behind=0.5)
    each = (CommEvent("all_reduce", 1, False), cost)
    assert play(each, each, each, (Wait(), NOTHING)).seconds == pytest.approx(2.0 + 1.5 + 1.5)


def test_a_gpu_computes_slower_beside_a_collective() -> None:
    time = play(send(1.0), compute(2.0), (Wait(), NOTHING), slowdown=0.25)
    # In 1 s of sending 0.8 s of work are done; the other 1.2 s go alone.
    assert time.seconds == pytest.approx(2.2)
    assert time.exposed_seconds == pytest.approx(0.2)


def test_a_collective_takes_its_share_of_the_core() -> None:
    time = play(send(1.0, core_share=0.3), compute(1.7), (Wait(), NOTHING))
    assert time.seconds == pytest.approx(2.0)


def test_two_that_want_the_whole_core_get_half_each() -> None:
    time = play(send(1.0, core_share=1.0), compute(1.0), (Wait(), NOTHING))
    assert time.seconds == pytest.approx(2.0)


seconds = st.floats(0.001, 10.0)


@given(
    st.lists(st.tuples(st.sampled_from(["compute", "send", "wait"]), seconds), max_size=12),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.5),
)
def test_a_step_takes_at_least_its_computing_and_at_most_all_of_it(
    drawn: list[tuple[str, float]], core_share: float, slowdown: float
) -> None:
    events = []
    for kind, length in drawn:
        events.append(
            compute(length)
            if kind == "compute"
            else send(length, is_waited=kind == "wait", core_share=core_share)
        )
    time = play(*events, slowdown=slowdown)
    computing = sum(length for kind, length in drawn if kind == "compute")
    sending = sum(length for kind, length in drawn if kind != "compute")
    slowest = computing * (1 + slowdown) + 2 * sending  # half of a core each, at worst
    assert computing <= time.seconds + 1e-6
    assert sending <= time.seconds + 1e-6
    assert time.seconds <= slowest + 1e-6
