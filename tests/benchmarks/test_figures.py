"""The statistics of the benchmarks."""

import pytest

from benchmarks.figures import middle_half, paired_ratio, shared_rounds


def test_the_ratio_is_the_median_of_pairs_and_not_a_ratio_of_medians() -> None:
    """In the third round the machine was slow: both figures are large, and their ratio is like that of the first."""
    relay = [100.0, 100.0, 300.0]
    proxy = [200.0, 600.0, 600.0]

    assert paired_ratio(proxy, relay).median == 2.0


def test_one_wild_round_of_twelve_moves_neither_median_nor_interval_far() -> None:
    ratio = paired_ratio([1.0] * 11 + [50.0], [1.0] * 12)

    assert ratio.median == 1.0
    assert ratio.high == 1.0


def test_the_interval_holds_the_median_and_widens_with_the_spread() -> None:
    calm = paired_ratio([1.9, 2.0, 2.1] * 4, [1.0] * 12)
    wild = paired_ratio([1.0, 2.0, 3.0] * 4, [1.0] * 12)

    assert calm.low <= calm.median <= calm.high
    assert wild.high - wild.low > calm.high - calm.low


def test_the_same_figures_give_the_same_interval() -> None:
    costs = [1.3, 1.1, 1.7, 1.2, 1.5, 1.4]

    assert paired_ratio(costs, [1.0] * 6) == paired_ratio(costs, [1.0] * 6)


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0, 2.0], [1.0])])
def test_rounds_that_do_not_pair_are_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError):
        paired_ratio(above, below)


def test_only_rounds_that_both_programs_have_are_paired() -> None:
    """A slow program takes part in few rounds, and one that failed has none of that round."""
    assert shared_rounds({0: 1.0, 2: 3.0, 3: 4.0}, {3: 40.0, 0: 10.0, 1: 20.0}) == ([1.0, 4.0], [10.0, 40.0])


@pytest.mark.parametrize(("figures", "ends"), [([5.0], (5.0, 5.0)), ([1.0, 2.0, 3.0, 4.0, 100.0], (2.0, 4.0))])
def test_the_middle_half_leaves_out_what_is_far_off(figures: list[float], ends: tuple[float, float]) -> None:
    assert middle_half(figures) == ends
