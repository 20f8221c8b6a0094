"""Every YAML composes, names its target, and builds."""

import pytest
import torch
import yaml
from helpers import DISTIL
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fairat_lightning.config.compose import CONF, resolved
from fairat_lightning.config.targets import check_targets

GROUPS = (
    "data",
    "model",
    "attack",
    "objective",
    "awp",
    "averaging",
    "head",
    "method",
    "optim",
    "schedule",
    "trainer",
    "logger",
    "experiment",
)
OWN = {  # what stands for a user's own
    **{"data": "fairat_lightning.data.DataModule", "model": "fairat_lightning.models.resnet18"},
    **{"attack": "fairat_lightning.attacks.PGD", "objective": "fairat_lightning.objectives.AT"},
    "awp": "fairat_lightning.awp.AWP",
    **{"averaging": "fairat_lightning.averaging.EMA", "head": "fairat_lightning.head.BalancedHead"},
    **{"method": "fairat_lightning.methods.FAAL", "optim": "torch.optim.RMSprop", "schedule": "fairat_lightning.optim.constant"},
}
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("group,option", OPTIONS)
def test_composes_and_says_what_it_is(compose, group, option):
    text = (CONF / group / f"{option}.yaml").read_text()
    init = ["init_from=base.pt"] if "${base:}" in text or option.startswith("decosam") else []
    init += [f"{group}._target_={OWN[group]}"] if option == "custom" else []
    init += ["+attack.steps=1"] if (group, option) == ("attack", "custom") else []
    init += ["optim=sgd"] if group == "schedule" and option not in ("none", "custom") else []
    init += ["method.teacher=teacher.pt"] if option.startswith(DISTIL) else []
    config = OmegaConf.create(resolved(compose(f"{group}={option}", *init)))
    check_targets(OmegaConf.to_container(config))
    assert "${" not in OmegaConf.to_yaml(config)
    assert text.startswith("# ")
    if config.get(group) and group != "experiment":
        assert (config[group][option] if group == "logger" else config[group])._target_
    for part in ("attack", "objective"):
        assert instantiate(config[part]) is not None


def test_groups_and_options_that_others_rely_on():
    expected = {
        "data": "cifar10 cifar100 digits fashion_mnist folder stl10 svhn synthetic tiny_imagenet",
        "model": "preactresnet18 preactresnet_tiny resnet18 timm wrn28_10 wrn34_10",
        "attack": "fgsm fgsm_rs l2_pgd10 n_fgsm pgd10 pgd2 pgd3 pgd7",
        "objective": "at mart trades",
        "awp": "awp none",
        "averaging": "ema fawa none swa",
        "head": "balanced none",
        "method": "absld bat cfa cfol codat csr dafa decosam faal fair_ard fair_tat fairat floor frl ham mart pgd_at "
        "standard trades trix variance wat",
        "optim": "adamw custom multistep onecycle sgd",
        "schedule": "constant cosine custom multistep none onecycle",
        "trainer": "auto cpu ddp gpu",
        "logger": "csv tensorboard wandb",
    }
    for group, options in expected.items():
        assert {o for g, o in OPTIONS if g == group} >= set(options.split()), group


def test_defaults_follow_the_data_set_and_the_command_line_wins(compose):
    digits, cifar = resolved(compose()), resolved(compose("data=cifar10"))
    assert digits["attack"]["eps"] == 0.2 and digits["model"]["_target_"].endswith("preactresnet_tiny")
    assert cifar["attack"]["eps"] == "8/255" and cifar["model"]["_target_"].endswith("preactresnet18")
    assert resolved(compose("data=cifar100", "method=faal"))["trainer"]["max_epochs"] >= 100
    mine = resolved(compose("data=cifar10", "model=wrn28_10", "attack.eps=4/255", "trainer.max_epochs=7"))
    assert mine["model"]["_target_"].endswith("wrn28_10") and mine["attack"]["eps"] == "4/255"
    assert mine["trainer"]["max_epochs"] == 7


def test_a_method_chooses_its_objective_and_the_command_line_wins(compose):
    target = lambda *words: compose(*words).objective._target_.rpartition(".")[2]  # noqa: E731
    assert [target(f"method={m}") for m in ("pgd_at", "trades", "mart", "faal", "fairat")] == ["AT", "TRADES", "MART", "AT", "AT"]
    assert target("method=trades", "objective=mart") == "MART"
    assert target("experiment=faal_preactresnet18", "objective=trades", "init_from=x") == "TRADES"


@pytest.mark.parametrize(
    "attack,steps,step,start,noise",
    [
        ("pgd10", 10, 2 / 255, None, None),
        ("pgd7", 7, 2 / 255, None, None),
        ("pgd3", 3, 4 / 255, None, None),
        ("pgd2", 2, 4 / 255, None, None),
        ("fgsm", 1, 8 / 255, "zero", None),
        ("fgsm_rs", 1, 10 / 255, "uniform", None),
        ("n_fgsm", 1, 8 / 255, "uniform", 2),
    ],
)
def test_attacks(compose, attack, steps, step, start, noise):
    made = instantiate(OmegaConf.create(resolved(compose("data=cifar10", f"attack={attack}"))).attack)
    assert (made.steps, made.step, made.eps) == (steps, pytest.approx(step), 8 / 255)
    assert (made.norm, made.start, made.noise) == ("linf", start, noise)
    assert made.batch_norm == "eval"


def test_l2_attack_takes_the_l2_budget(compose):
    made = instantiate(OmegaConf.create(resolved(compose("data=cifar10", "attack=l2_pgd10"))).attack)
    assert (made.norm, made.eps, made.step) == ("l2", 128 / 255, 32 / 255)


@pytest.mark.parametrize("experiment,schedule", [("faal_preactresnet18", [0.01, 0.001]), ("faal_awp_wrn34_10", [0.01, 0.001])])
def test_the_fine_tune_runs_two_epochs_at_the_published_rates(compose, experiment, schedule):
    cfg = OmegaConf.create(resolved(compose(f"experiment={experiment}", "init_from=base.pt")))
    weight = torch.nn.Parameter(torch.zeros(1))
    made = instantiate(cfg.optim, _convert_="all")([weight], epochs=cfg.trainer.max_epochs, steps=100)
    rates = []
    for _ in range(cfg.trainer.max_epochs):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx(schedule)
    assert cfg.method.radius == 0.5 and cfg.optim.weight_decay == 5e-4 and cfg.data.batch_size == 128


BASES = [("pgd_at_preactresnet18", (100, 105)), ("fairat_wrn28_10", (75, 90)), ("trades_wrn34_10", (75,))]


@pytest.mark.parametrize("experiment,drops", BASES)
def test_the_bases_drop_where_published(compose, experiment, drops):
    cfg = OmegaConf.create(resolved(compose(f"experiment={experiment}")))
    made = instantiate(cfg.optim, _convert_="all")([torch.nn.Parameter(torch.zeros(1))], epochs=cfg.trainer.max_epochs, steps=100)
    assert tuple(sorted(made["lr_scheduler"]["scheduler"].milestones)) == drops


def test_every_number_of_the_data_sets_has_its_place():
    for path in (CONF / "data").glob("*.yaml"):
        suggests = yaml.safe_load(path.read_text())["suggests"]
        assert set(suggests) == {"eps", "epochs", "augmentation", "mean", "std"}, path
