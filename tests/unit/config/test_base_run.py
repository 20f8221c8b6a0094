import json

import pytest

from fairat_lightning.config.base_run import with_base
from fairat_lightning.config.compose import compose_training, resolved
from fairat_lightning.record.reader import read_config, run_folder

RECIPE = "experiment=recommended"


@pytest.mark.parametrize("name", ["digits_pgd_at", "cifar10_pgd_at", "cifar100_pgd_at"])
def test_the_recommended_recipe_takes_data_network_and_threat_model_of_its_base(name):
    cfg, folder = compose_training([RECIPE, f"init_from=pretrained:{name}"])
    base = read_config(run_folder(f"pretrained:{name}"))
    mine = resolved(cfg)
    assert base["model"] == mine["model"] and (mine["attack"]["norm"], mine["attack"]["eps"]) == ("linf", base["attack"]["eps"])
    assert {k: v for k, v in base["data"].items() if k != "seed"}.items() <= mine["data"].items()
    assert folder.name.startswith(f"{name.partition('_')[0]}-preactresnet")
    assert mine["attack"]["steps"] == 3 and mine["trainer"]["max_epochs"] == 2


def test_what_the_command_sets_wins():
    words = [RECIPE, "init_from=pretrained:cifar10_pgd_at", "model.width=8", "data.root=here", "attack.eps=4/255", "seed=3"]
    mine = resolved(compose_training(words)[0])
    assert (mine["model"]["width"], mine["data"]["root"], mine["attack"]["eps"]) == (8, "here", "4/255")
    assert mine["data"]["val_per_class"] == 50 and mine["data"]["seed"] == 3
    mine = resolved(compose_training([RECIPE, "init_from=pretrained:cifar10_pgd_at", "data=digits", "model=resnet18"])[0])
    assert mine["data"]["load"]["_target_"].endswith("digits") and mine["model"]["width"] == 64


@pytest.mark.parametrize("path", ["a b", 'quote"d', "back\\slash", "end\\", '\\"', "ünïcode", "a,b=[c]{d}"])
def test_any_text_of_the_base_is_brought_as_it_is(tmp_path, path):
    (tmp_path / "config.yaml").write_text(
        (run_folder("pretrained:digits_pgd_at") / "config.yaml")
        .read_text()
        .replace("  root: null", f"  root: {json.dumps(path)}")
    )
    assert compose_training([RECIPE, f"init_from={tmp_path}"])[0].data.root == path


def test_a_base_with_a_key_that_was_added_is_repeated(tmp_path):
    text = (run_folder("pretrained:digits_pgd_at") / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("  width: 16", "  width: 16\n  extra: 1"))
    cfg, _ = compose_training([RECIPE, f"init_from={tmp_path}", "+data.load.more=2"])
    assert cfg.model.extra == 1 and cfg.data.load.more == 2


def test_everything_else_is_left_as_it_is(tmp_path):
    (tmp_path / "net.pt").touch()
    for words in (
        ["init_from=pretrained:digits_pgd_at"],
        ["experiment=digits_faal", "init_from=pretrained:digits_pgd_at"],
        [RECIPE],
        [RECIPE, f"init_from={tmp_path / 'net.pt'}"],
        ["experiment=glob(digits*)", "init_from=glob(*)"],
        [RECIPE, "init_from=range(1,3)"],
    ):
        assert with_base(words) == words
    once = with_base([RECIPE, "init_from=pretrained:digits_pgd_at"])
    assert with_base(once) == once


def test_a_sweep_takes_what_its_bases_have_in_common(tmp_path):
    same = [RECIPE, "init_from=pretrained:cifar10_pgd_at_s0,pretrained:cifar10_pgd_at_s1"]
    assert with_base(same) == [*with_base([RECIPE, "init_from=pretrained:cifar10_pgd_at_s0"])[:-2], *same]
    with pytest.raises(ValueError, match="cifar10_pgd_at and pretrained:digits_pgd_at differ in data, network"):
        with_base([RECIPE, "init_from=pretrained:cifar10_pgd_at,pretrained:digits_pgd_at"])
    with pytest.raises(ValueError, match="recommended,digits_faal: a recipe that takes its data"):
        with_base(["experiment=recommended,digits_faal", "init_from=pretrained:digits_pgd_at"])


def test_a_base_of_a_class_of_ones_own_is_named(tmp_path):
    text = (run_folder("pretrained:digits_pgd_at") / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("fairat_lightning.data.sets.digits", "collections.OrderedDict"))
    with pytest.raises(ValueError, match=r"collections.OrderedDict"):
        with_base([RECIPE, f"init_from={tmp_path}", "allow=[collections.]"])
