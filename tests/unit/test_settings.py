import pytest

from fairat_lightning.settings import nearest, nearest_key, nearest_path, within


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


def test_what_was_meant():
    keys = ("attack.eps", "attack.steps", "optim.lr", "data.root", "suite.root", "seed")
    assert nearest("foal", ("faal", "wat")) == "; did you mean faal?" and nearest("x", ("faal", "wat")) == ""
    assert nearest("CAT", ("cat", "dog")) == "; did you mean cat?"
    assert nearest_key("attack.epsilon", keys) == "; did you mean attack.eps?"
    assert nearest_key("lr", keys) == nearest_key("optim.learning_rate", keys) == "; did you mean optim.lr?"
    assert nearest_key("root", keys) == "; did you mean data.root or suite.root?"
    assert nearest_key("nothing", keys) == ""


def test_a_path_that_was_meant(tmp_path):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "runs" / ".hidden").mkdir()
    assert nearest_path(tmp_path / "runs" / "bsae") == f"; did you mean {tmp_path}/runs/base?"
    assert nearest_path(tmp_path / "rnus" / "base") == f"; did you mean {tmp_path}/runs/base?"
    for far in ("runs/hidden", "runs/quite_another", "elsewhere/base", "rnus/other"):
        assert nearest_path(tmp_path / far) == ""
