import pytest
import torch

from fairat_lightning.data.stratified import evenly, stratified

TARGETS = torch.tensor([0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 1, 1, 0])  # 4, 7 and 2 of a class


def chosen_sizes(counts: int | float | torch.Tensor) -> list[int]:
    return TARGETS[stratified(TARGETS, counts)].bincount(minlength=3).tolist()


def test_counts_are_one_number_or_one_a_class_or_a_part() -> None:
    assert chosen_sizes(2) == [2, 2, 2]
    assert chosen_sizes(torch.tensor([0, 5, 1])) == [0, 5, 1]
    assert chosen_sizes(0.1) == [1, 1, 1]
    assert chosen_sizes(0.5) == [2, 4, 1]


def test_indices_are_sorted_distinct_and_nested() -> None:
    targets = torch.randint(5, (500,))
    small, large = stratified(targets, 10), stratified(targets, 30)
    assert torch.equal(large, large.unique())
    assert set(small.tolist()) < set(large.tolist())


def test_the_choice_is_random_and_pinned() -> None:
    targets = torch.arange(1000) % 2
    chosen = stratified(targets, 100)
    assert 350 < chosen.float().mean() < 650
    # A validation split that was published must never move.
    assert stratified(torch.arange(50_000) % 10, 300)[:5].tolist() == [22, 24, 28, 76, 134]


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match="class 2 has 2 samples, not the 3"):
        stratified(TARGETS, 3)


@pytest.mark.parametrize("total", range(14))
def test_evenly_is_the_most_even_allocation(total: int) -> None:
    sizes = TARGETS.bincount()
    possible = [(a, b, total - a - b) for a in range(5) for b in range(8) if 0 <= total - a - b <= 2]
    most_even = min(possible, key=lambda counts: sum(count**2 for count in counts))
    counts = evenly(total, sizes).tolist()
    assert sum(counts) == total and all(count <= size for count, size in zip(counts, sizes.tolist(), strict=True))
    assert sorted(counts) == sorted(most_even)


def test_evenly_gives_what_is_left_to_the_first_classes_with_more() -> None:
    assert evenly(11, torch.tensor([5, 5, 5, 5])).tolist() == [3, 3, 3, 2]
    assert evenly(4, torch.tensor([1, 3, 3])).tolist() == [1, 2, 1]
