import pytest
import torch

from fairat_lightning.classwise import ClassMeans, calibrated, class_sums, global_mean, keep


def test_sums_and_means_by_brute_force():
    values, y = torch.rand(50), torch.randint(4, (50,))
    sums, counts = class_sums(values, y, 6)
    means = ClassMeans(6)
    means.update(values[:20], y[:20])
    means.update(values[20:], y[20:])
    result = means.compute()
    for k in range(6):
        mine = values[y == k]
        assert counts[k] == len(mine)
        torch.testing.assert_close(sums[k], mine.sum())
        if len(mine):
            torch.testing.assert_close(result[k].float(), mine.mean())
        else:
            assert result[k].isnan()


def test_global_mean_of_one_process_is_the_mean():
    values = torch.rand(7, requires_grad=True)
    assert torch.equal(global_mean(values), values.mean())


def test_means_of_vectors_and_an_absent_class():
    values, y = torch.rand(7, 3), torch.tensor([0, 0, 1, 1, 1, 3, 3])
    means = ClassMeans(4, 3)
    means.update(values[:4], y[:4])
    means.update(values[4:], y[4:])
    found = means.compute()
    for k in (0, 1, 3):
        torch.testing.assert_close(found[k], values[y == k].double().mean(0))
    assert found[2].isnan().all()


def test_an_absent_class_keeps_what_it_had_and_an_unknown_budget_is_one():
    old, new = torch.tensor([0.1, 0.2, torch.nan]), torch.tensor([0.5, torch.nan, torch.nan])
    kept = keep(new, old)
    assert kept[:2].tolist() == pytest.approx([0.5, 0.2]) and kept[2].isnan()
    assert calibrated(0.3, kept).tolist() == pytest.approx([0.8, 0.5, 1.0])


def test_class_statistics_carry_no_gradient():
    sums, _ = class_sums(torch.rand(4, requires_grad=True), torch.tensor([0, 1, 1, 0]), 2)
    assert not sums.requires_grad
