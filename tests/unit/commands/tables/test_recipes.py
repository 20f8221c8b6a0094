"""The tables: every row composes to its paper's recipe, under the attack that its budget says."""

import pytest
import yaml
from helpers import DISTIL, TABLES, quick_for
from omegaconf import OmegaConf

from fairat_lightning.commands.tables import judging, recipes
from fairat_lightning.config.build import build_part
from fairat_lightning.config.compose import CONF, compose_training, resolved
from fairat_lightning.record.writer import open_folder
from fairat_lightning.report.published import reference


def rows_of(table):
    """The rows of all budgets."""
    return yaml.safe_load((recipes.TABLES / f"{table}.yaml").read_text())


def plan_of(table, budget, *words):
    return recipes.parse([f"table={table}", f"budget={budget}", *words])


@pytest.mark.parametrize("table, budget", quick_for(TABLES, ("faal", "night"), ("fairat", "night"), ("leaderboard", "hour")))
def test_every_row_of_the_real_tables_composes_after_what_it_starts_from(table, budget):
    plan = plan_of(table, budget)
    assert plan.wanted == set(plan.rows)
    seen = set()
    for job in plan.jobs([0]):
        assert set(job.needs) <= seen, job.row
        seen.add(job.folder)
        cfg, folder = compose_training(job.words)
        assert cfg.seed == 0 and folder == job.folder.absolute()
        assert (cfg.init_from is not None) == ("base" in plan.rows[job.row])
        overfitting = (table, budget) == ("fairat", "night") and not job.row.endswith("_whole")
        assert cfg.data.train_size == (10_000 if budget == "smoke" else 2500 if overfitting else None), job.row
        if budget == "hour":
            cycle = cfg.optim._target_.endswith("onecycle")
            assert (cycle, cfg.trainer.max_epochs in (30, 5)) == ((cfg.init_from is None,) * 2), job.row
        if budget == "night":
            assert (cfg.model._target_, cfg.model.width) == ("fairat_lightning.models.preactresnet18", 16), job.row
            assert cfg.trainer.precision == "32-true" and cfg.val_every == 5 and cfg.data.val_per_class == 50
            schedule = ("multistep", 150, 0.1, "sum") if overfitting else ("onecycle", 12, 0.1, "last")
            schedule = schedule if cfg.init_from is None else ("onecycle", 2, 0.02, "last")
            schedule = schedule if job.row != "decosam" else ("onecycle", 1, 0.01, "last")
            assert cfg.data.monitor_size == (None if table == "faal100" else 600), "all of them: 50 of each class"
            target = cfg.optim._target_.rpartition(".")[2]
            assert (target, cfg.trainer.max_epochs, cfg.optim.lr, cfg.select) == schedule, job.row
            assert cfg.data.test_size == (None if table == "faal100" else 5000)
    assert {key for row in plan.rows.values() for key in recipes.controls(row)[:1]} <= set(plan.rows)
    assert {key for row in plan.rows.values() for key in recipes.controls(row)} <= set(rows_of(table))
    assert all(reference(name).label for row in plan.rows.values() for name in row.get("published", ()))


# norm, eps, step, steps, noise of runs from scratch and of fine-tunes in a budget; at `full` some papers have their own
N_FGSM, PGD3 = ("linf", 8 / 255, 8 / 255, 1, 2.0), ("linf", 8 / 255, 4 / 255, 3, None)
PGD10, TRADES10 = ("linf", 8 / 255, 2 / 255, 10, None), ("linf", 0.031, 0.007, 10, None)
ATTACKS = {"smoke": (N_FGSM, N_FGSM), "night": (N_FGSM, PGD3), "hour": (PGD10, PGD10), "full": (PGD10, PGD10)}
MANY_STEPS = {"ham": PGD10, "bat": PGD10}  # in the budgets of one step too
OF_PAPERS = dict.fromkeys(("wrn_trades", "dafa", "wat", "bat", "ham"), TRADES10) | {"cfol": ("linf", 0.031, 0.00797, 7, None)}
IN_TRAIN_MODE = ("cfa_at", "fair_tat", "fair_ard")  # at `full`: their codes' attacks


@pytest.mark.parametrize("table, budget", TABLES)
def test_a_budgets_attack_is_that_attack_in_every_row(table, budget):
    """A recipe's own step once stayed behind under another attack: one N-FGSM step of a quarter of its size."""
    plan, own = plan_of(table, budget), OF_PAPERS if budget == "full" else MANY_STEPS
    for job in plan.jobs([0]):
        attack = made(job.words)
        expected = own.get(job.row, ATTACKS[budget]["base" in plan.rows[job.row]])
        found = (attack.norm, attack.eps, attack.step, attack.steps, attack.noise)
        assert found == pytest.approx(expected), job.row
        assert attack.batch_norm == ("train" if budget == "full" and job.row in IN_TRAIN_MODE else "eval"), job.row


def made(words):
    """The attack that a run of these words trains against."""
    return build_part(OmegaConf.create({"attack": resolved(compose_training(words)[0])["attack"]}), "attack")


@pytest.mark.parametrize("attack", quick_for(["n_fgsm", "pgd3", "fgsm_rs", "l2_pgd10"], "l2_pgd10"))
def test_whoever_chooses_an_attack_gets_its_own_numbers_in_every_recipe(compose, attack):
    plain = OmegaConf.to_container(compose("data=cifar10", f"attack={attack}").attack, resolve=False)
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        words = [f"experiment={path.stem}", "data=cifar10", f"attack={attack}", "init_from=x"]
        words += ["method.teacher=x"] if path.stem.startswith(DISTIL) else []
        assert OmegaConf.to_container(compose(*words).attack, resolve=False) == plain, path.stem


# The papers' schedules: method, objective, AWP, averaging, smoothing, epochs, rate, and where it falls (shares), or one cycle.
AT, TR, CYCLE = "AT", "TRADES", "one cycle"
RECIPES = {
    "faal.pgd_at": ("AdversarialTraining", AT, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "faal.more": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.more_trades": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_r1": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_awp": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "faal.trades": ("AdversarialTraining", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "faal.faal_trades": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_awp_trades": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "faal.wrn_mart": ("AdversarialTraining", "MART", "", "", 0, 90, 0.1, [0.8333]),
    "faal.wrn_awp": ("AdversarialTraining", AT, "AWP", "", 0, 200, 0.1, [0.5, 0.75]),
    "faal.wrn_faal_awp_from_awp": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "fairat.none": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.hard": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.random": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.all": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.wrn_fairat": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "leaderboard.strong": ("AdversarialTraining", AT, "", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.strong_more": ("FAAL", AT, "", "EMA", 0.4, 2, 0.01, [0.5]),
    "leaderboard.strong_faal": ("FAAL", AT, "", "EMA", 0.4, 2, 0.01, [0.5]),
    "leaderboard.strong_faal_awp": ("FAAL", AT, "AWP", "EMA", 0.4, 2, 0.01, [0.5]),
    "leaderboard.strong_fairat": ("FairAT", AT, "", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.strong_floor": ("FLOOR", AT, "", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.floor": ("FLOOR", AT, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.dafa": ("DAFA", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.wat": ("WAT", TR, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "leaderboard.cfa": ("CFA", TR, "", "FAWA", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.cfa_at": ("CFA", AT, "", "FAWA", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.frl": ("FRL", TR, "", "", 0, 40, 0.001, []),
    "leaderboard.csr": ("CSR", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.cfol": ("CFOL", AT, "", "", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.bat": ("BAT", TR, "", "", 0, 200, 0.1, [0.375, 0.45, 0.5]),
    "leaderboard.fair_ard": ("FairARD", AT, "", "", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.absld": ("ABSLD", AT, "", "", 0, 300, 0.1, [0.7167, 0.8667, 0.95]),
    "leaderboard.ham": ("HAM", AT, "", "", 0, 120, 0.1, [0.5, 0.75]),
    "leaderboard.trix": ("TRIX", AT, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.variance": ("VariancePenalty", AT, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.decosam": ("DecoSAM", AT, "", "", 0, 1, 0.01, []),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_at_full_is_its_papers_recipe(name):
    table, _, row = name.partition(".")
    (words,) = (job.words for job in plan_of(table, "full").jobs([0]) if job.row == row)
    cfg, _ = compose_training(words)
    targets = [str((cfg.get(part) or {}).get("_target_", "")) for part in ("method", "objective", "awp", "averaging")]
    parts = [target.rpartition(".")[2] for target in targets]
    falls = CYCLE if cfg.optim._target_.endswith("onecycle") else list(cfg.optim.milestones)
    found = (*parts, cfg.objective.get("label_smoothing", 0) or 0, cfg.trainer.max_epochs, cfg.optim.lr, falls)
    assert found == RECIPES[name]


def test_rows_that_differ_in_one_setting_differ_in_it():
    def settings(table, row, key):
        (words,) = (job.words for job in plan_of(table, "full").jobs([0]) if job.row == row)
        return OmegaConf.select(compose_training(words)[0], key)

    assert [settings("faal", row, "method.radius") for row in ("more", "faal", "faal_r1", "faal_trades")] == [0, 0.5, 1, 0.5]
    assert [settings("fairat", row, "method.subset") for row in ("none", "hard", "random", "all")] == [
        "none",
        "hard",
        "random",
        "all",
    ]
    assert settings("leaderboard", "strong", "averaging.decay") == 0.9995
    assert settings("faal", "wrn_mart", "objective.beta") == 6
    for row, batch_norm in (("fair_ard", "train"), ("absld", "eval")):  # the codes' rate goes with their mean over the classes
        assert settings("leaderboard", row, "method.reduction") == "mean"
        assert settings("leaderboard", row, "attack.batch_norm") == batch_norm


@pytest.mark.parametrize(
    "words, folder",
    [
        ([], "faal-night"),
        (["model.width=16"], "faal-night"),  # the budget's own
        (["model.width=32"], "faal-night-width32"),
        (["++model.width=32"], "faal-night-width32"),
        (["model.width=32", "model.width=8"], "faal-night-width8"),
    ],
)
def test_runs_of_another_width_have_a_folder_of_their_own(words, folder):
    assert plan_of("faal", "night", *words).place.name == folder


def test_a_row_may_be_of_some_seeds_alone():
    with pytest.raises(ValueError, match=r"rows=all is trained with seeds=\[0\] alone in budget=night, and seeds=\[1\] asks"):
        plan_of("fairat", "night", "seeds=[1]", "rows=[all]")
    plan = plan_of("fairat", "night", "seeds=[0,1]", "rows=[all,hard]")
    assert plan.wanted == {"all", "hard", "none"}, "the first row that it is compared with, and not the second"
    plan = plan_of("fairat", "night", "seeds=[0,1]")
    assert {(job.row, job.seed) for job in plan.jobs() if job.row in ("hard", "all")} == {("hard", 0), ("hard", 1), ("all", 0)}


def test_the_evaluations_of_the_night():
    plan = plan_of("fairat", "night", "runs=there")
    none, whole = (next(job for job in plan.jobs() if job.row == row) for row in ("none", "none_whole"))
    names = [recipes.folder_of_evaluation(words) for words in plan.evaluations(none, "sum", ["cat", "dog's"])]
    assert names == ["apgd", "quick-last", "apgd-last", "quick-last-train", "quick-last-val"]
    words = plan.evaluations(none, "sum", ["cat", "dog's"])[2]
    assert words[0] == "checkpoint=there/fairat-night/none-s0/checkpoints/last.ckpt"
    assert words[-1] == "in_full=['cat','dog\\'s']"
    assert [recipes.folder_of_evaluation(words) for words in plan.evaluations(whole, "last", [])] == ["apgd"]
    plan = plan_of("faal100", "night")
    assert plan.evaluations(plan.jobs()[0], "last", ["cat"])[0][-1] == "classes=['cat']"
    assert plan_of("faal", "smoke").evaluations(plan.jobs()[0], "sum", [])[0][1] == "suite=autoattack"


def test_the_evaluations_of_runs_of_another_machine_take_the_images_of_this_one(tmp_path):
    plan = plan_of("fairat", "night", "data.root=here")
    found = plan.evaluations(plan.jobs()[0], "sum", ["cat"])
    assert all(words[-1] == "data.root=here" for words in found) and len(found) == 5
    stored = {"suite": {"suite": "quick"}, "data": {"root": "there"}, "split": "val"}
    open_folder(tmp_path, stored | {"seed": 0}, None)
    assert judging.differs(tmp_path, ["checkpoint=x", "suite=quick", "split=val", "data.root=here"]) == []
    assert judging.differs(tmp_path, ["checkpoint=x", "suite=quick", "split=train", "data.root=here"]) == ["split"]
