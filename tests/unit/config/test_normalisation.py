"""The word `normalisation=`."""

import pytest
from omegaconf import OmegaConf

from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.config.normalisation import meant


@pytest.mark.parametrize(
    ("word", "mean", "std"),
    [
        ("none", [0.0], [1.0]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ([0.5, 0.25], [0.5], [0.25]),
        ([[0.1, 0.2, 0.3], [1, 2, 3]], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]),
        ([0, [0.5, "1/4", 1]], [0.0], [0.5, 0.25, 1.0]),
    ],
)
def test_what_it_means(word, mean, std):
    assert meant(word) == (mean, std) == meant(OmegaConf.create([word])[0])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cifar", "normalisation=cifar is unknown: choose none, cifar10, cifar100, digits, "),
        ("folder", "normalisation=folder is unknown"),
        ("../data/cifar10", "is unknown"),
        (0.5, "normalisation=0.5 must be none, a data set's name, or two values"),
        ([0.5], "or two values [MEAN,STD]"),
        ([0.5, 0.5, 0.5], "or two values [MEAN,STD]"),
        ([0.5, 0], "a standard deviation above 0"),
        ([[], [1]], "must have a mean"),
        ([[0.5], "x"], "normalisation=x must be a number"),
        ([None, 1], "normalisation=None must be a number"),
        ([True, 1], "normalisation=True must be a number"),
        ({"mean": 1}, "must be none"),
    ],
)
def test_any_other_word_is_one_line(word, said):
    with pytest.raises(ValueError) as error:
        meant(word)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], False),
        (["model=resnet18", "data=cifar10"], False),
        (["model.mean=[0.0]"], True),
        (["model.std=[1.0]"], True),
        (["model._target_=mypackage.Net", "allow=[mypackage.]"], False),
        (["model._target_=mypackage.Net", "allow=[mypackage.]", "model.mean=[0.5]"], True),
    ],
)
def test_a_command_knows_whether_it_says_the_mean(tmp_path, monkeypatch, words, given):
    """Also where it says what the data set suggests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").touch()
    assert compose_classifier("classifier", ["checkpoint=x.pt", *words], check=None).mean_given is given
