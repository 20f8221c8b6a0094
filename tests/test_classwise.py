import torch

from fairat_lightning.classwise import ClassMeans, class_sums, global_mean


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
