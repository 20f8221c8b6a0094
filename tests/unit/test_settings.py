import pytest

from fairat_lightning.settings import within


@pytest.mark.parametrize(
    "interval,inside,outside",
    [
        ("[0, 1)", (0, 0.5), (1, -0.1, 1.5)),
        ("(0, 1]", (1, 1e-9), (0, 2)),
        ("[0, inf)", (0, 1e9), (float("inf"), -1)),
        ("[0, inf]", (float("inf"),), (-1,)),
    ],
)
def test_a_number_in_its_interval(interval, inside, outside):
    for value in inside:
        within("method.a", value, interval)
    for value in (*outside, float("nan"), "1", None, True, [1]):
        with pytest.raises(ValueError, match="method.a=") as error:
            within("method.a", value, interval)
        assert interval in str(error.value)
