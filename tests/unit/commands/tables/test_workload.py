from fairat_lightning.commands.tables import workload
from fairat_lightning.config.build import build_part
from fairat_lightning.config.compose import compose_training


def test_the_pass_that_looks_for_hard_examples_is_in_the_time():
    data = build_part(compose_training(["data=digits"])[0], "data")
    data.prepare()
    words = ("data=digits", "method.augmentation=cutout")
    takes = {
        word: workload.training(compose_training([*words, *word.split()])[0], data)
        for word in ("method=fairat", "method=floor", "method=fairat method.subset=none", "method=floor method.hard_fraction=0")
    }
    assert (
        len({takes[word] for word in list(takes)[:3]}) == 1
        and takes["method=floor"] > takes["method=floor method.hard_fraction=0"]
    )
