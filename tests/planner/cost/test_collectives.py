import math

import pytest

from tests.planner.conftest import link, measurement
from yolo.planner.cost.collectives import collective_cost, sent_bytes, wire_bytes
from yolo.planner.profile import ClusterProfile

MEGABYTE = 1_000_000


def test_a_ring_takes_its_steps_and_its_bytes(plain: ClusterProfile) -> None:
    flat = plain.with_nodes(4, 1)
    seconds = collective_cost(flat, "reduce_scatter", 8 * MEGABYTE).seconds
    assert seconds == pytest.approx(3 * 100e-6 + 0.75 * 8 * MEGABYTE / 1e9)
    whole = collective_cost(flat, "all_reduce", 8 * MEGABYTE).seconds
    assert whole == pytest.approx(6 * 100e-6 + 1.5 * 8 * MEGABYTE / 1e9)


def test_a_small_all_reduce_takes_the_tree_on_many_nodes(plain: ClusterProfile) -> None:
    many = plain.with_nodes(256, 1)
    assert collective_cost(many, "all_reduce", 100).seconds == pytest.approx(
        2 * 8 * 100e-6, rel=0.01
    )


def test_levels_add_up_and_each_is_nothing_where_it_is_one_wide(plain: ClusterProfile) -> None:
    size = 80 * MEGABYTE
    within = collective_cost(plain.with_nodes(1, 2), "all_reduce", size).seconds
    between = collective_cost(plain.with_nodes(4, 1), "all_reduce", size).seconds
    both = collective_cost(plain, "all_reduce", size).seconds
    assert both == pytest.approx(within + between)
    assert collective_cost(plain.with_nodes(1, 1), "all_reduce", size).seconds == 0


def test_a_node_by_itself_takes_its_own_link_whatever_was_measured_between_nodes(
    plain: ClusterProfile,
) -> None:
    everywhere = plain.model_copy(update={"measured": [measurement(8, 8.0, 0.09)]})
    within = collective_cost(plain.with_nodes(1, 2), "all_reduce", MEGABYTE).seconds
    assert collective_cost(everywhere.group(2), "all_reduce", MEGABYTE).seconds == within
    assert sent_bytes(everywhere.group(2), "all_reduce", MEGABYTE) == MEGABYTE
    only_one = measured(plain, (2, 0.1, 0.09)).with_nodes(1, 2)
    assert only_one.group(2) == only_one


def test_ranks_of_a_node_share_its_link_for_what_no_other_can_carry(plain: ClusterProfile) -> None:
    size = 800 * MEGABYTE
    alone = collective_cost(plain.with_nodes(4, 1), "all_to_all", size).seconds
    two = collective_cost(plain.with_nodes(4, 2), "all_to_all", size).seconds
    assert two == pytest.approx(2 * alone, rel=0.15)


def measured(plain: ClusterProfile, *of: tuple[int, float, float]) -> ClusterProfile:
    update = {
        "measured": [measurement(*each) for each in of],
        "backend": "gloo",
        "gpus_per_node": 1,
        "nodes": 2,
        "between": link(0.1),
    }
    return plain.model_copy(update=update)


def test_what_was_measured_is_given_back(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09))
    assert collective_cost(profile, "all_reduce", MEGABYTE).seconds == pytest.approx(0.091)
    assert collective_cost(profile, "all_reduce", 5 * MEGABYTE).seconds == pytest.approx(0.451)


SENT = MEGABYTE + 4 * 144
"""By a rank of two in an all-reduce: gloo's four messages carry 144 bytes of their own."""


def test_a_calibration_of_one_rank_says_nothing_of_the_network(plain: ClusterProfile) -> None:
    profile = measured(plain, (4, 0.1, 0.09))
    nothing = {"ranks": 1, "collectives": {}, "wire_bytes_per_collective": {}}
    alone = profile.measured[0].model_copy(update=nothing)
    for others in ([], profile.measured):
        own = [alone, *others]
        wire = wire_bytes(profile.model_copy(update={"measured": own}), "all_reduce", MEGABYTE)
        assert 1.049 * SENT < wire < 1.05 * SENT + 100


def scaled(seconds: float, gbps: float, to_gbps: float, growth: float = 1.0) -> float:
    """A millisecond is latency, and a tenth of the rest the processor's; what is sent has 5% of headers."""
    working = 0.1 * seconds
    on_link = SENT * 1.05 * 8e-9 / gbps
    there = math.hypot(growth * on_link * gbps / to_gbps, growth * working)
    return 0.001 + seconds * there / math.hypot(on_link, working)


def test_a_bandwidth_between_two_takes_from_both_what_is_nearer(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09), (2, 1.0, 0.012)).with_bandwidth(0.4)
    # 1/0.4 = 2.5 lies 1/6 of the way from 1/1.0 = 1 to 1/0.1 = 10.
    expected = scaled(0.09, 0.1, 0.4) / 6 + scaled(0.012, 1.0, 0.4) * 5 / 6
    assert collective_cost(profile, "all_reduce", MEGABYTE).seconds == pytest.approx(
        expected, rel=1e-3
    )


def test_another_bandwidth_changes_the_links_part_alone(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09))
    for gbps in (0.2, 0.05):
        seconds = collective_cost(profile.with_bandwidth(gbps), "all_reduce", MEGABYTE).seconds
        assert seconds == pytest.approx(scaled(0.09, 0.1, gbps), rel=1e-3)
    # However fast the link, the processor's work stays.
    fast = collective_cost(profile.with_bandwidth(1e6), "all_reduce", MEGABYTE).seconds
    assert fast == pytest.approx(scaled(0.09, 0.1, 1e6), rel=1e-3)
    assert 0.008 < fast < 0.012


def test_more_ranks_send_more_in_more_steps(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09)).with_nodes(4)
    expected = 2 * 0.001 + scaled(0.09, 0.1, 0.1, growth=1.5)
    assert collective_cost(profile, "all_reduce", MEGABYTE).seconds == pytest.approx(
        expected, rel=1e-3
    )


def test_a_number_of_ranks_between_two_uses_both(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09), (4, 0.1, 0.15)).with_nodes(3)
    here = [collective_cost(measured(plain, each).with_nodes(3), "all_reduce", MEGABYTE).seconds
            for each in ((2, 0.1, 0.09), (4, 0.1, 0.15))]  # fmt: skip
    assert collective_cost(profile, "all_reduce", MEGABYTE).seconds == pytest.approx(sum(here) / 2)


def test_bytes_on_the_wire_are_the_formulas_and_the_framing(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09))
    assert sent_bytes(profile, "all_reduce", MEGABYTE) == SENT
    assert wire_bytes(profile, "all_reduce", MEGABYTE) == pytest.approx(1.05 * SENT + 100)
    assert wire_bytes(plain.with_nodes(2, 1), "all_gather", MEGABYTE) == pytest.approx(MEGABYTE / 2)


def test_a_collective_behind_others_spares_what_was_measured(plain: ClusterProfile) -> None:
    profile = measured(plain, (2, 0.1, 0.09))
    (one,) = profile.measured
    quick = one.model_copy(update={"seconds_behind": {"all_reduce": 0.0004}})
    profile = profile.model_copy(update={"measured": [quick]})
    assert collective_cost(profile, "all_reduce", MEGABYTE).spared_behind == pytest.approx(
        0.0006, rel=0.05
    )
    assert collective_cost(profile, "all_to_all", MEGABYTE).spared_behind == 0


def test_an_exchange_takes_one_latency_and_the_busiest_ranks_bytes(plain: ClusterProfile) -> None:
    line = plain.with_nodes(4, 1)
    # A megabyte to each side by the two ranks in the middle; three borders of four ranks.
    sent, messages = 1.5 * MEGABYTE, 1.5
    seconds = collective_cost(line, "point_to_point", sent, messages).seconds
    assert seconds == pytest.approx(100e-6 + 2 * MEGABYTE / 1e9)
    pair = collective_cost(line.group(2), "point_to_point", MEGABYTE, 1.0).seconds
    assert pair == pytest.approx(100e-6 + MEGABYTE / 1e9)
    one_way = collective_cost(line.group(2), "point_to_point", MEGABYTE / 2, 0.5).seconds
    assert one_way == pytest.approx(pair)
    assert sent_bytes(line, "point_to_point", sent, messages) == sent


def test_exchanges_that_were_not_measured_take_an_all_gathers_latency(
    plain: ClusterProfile,
) -> None:
    profile = measured(plain, (2, 0.1, 0.09))
    seconds = collective_cost(profile, "point_to_point", MEGABYTE).seconds
    assert seconds == pytest.approx(0.001 + MEGABYTE * 8e-8, rel=0.01)
    (one,) = profile.measured
    timed = {**one.collectives, "point_to_point": one.collectives["all_gather"]}
    again = one.model_copy(update={"collectives": timed})
    known = profile.model_copy(update={"measured": [again]})
    seconds = collective_cost(known, "point_to_point", MEGABYTE).seconds
    assert seconds == pytest.approx(0.001 + 0.09)


def test_a_group_is_the_part_of_a_cluster_that_its_ranks_make(plain: ClusterProfile) -> None:
    assert plain.group(0) == plain.group(8) == plain
    assert (plain.group(2).nodes, plain.group(2).gpus_per_node) == (1, 2)
    assert (plain.group(4).nodes, plain.group(4).gpus_per_node) == (2, 2)
    assert plain.group(2).network == plain.within
