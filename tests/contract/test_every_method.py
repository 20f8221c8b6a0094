"""Every method with every objective, with and without AWP: whatever has a YAML in conf/method keeps the contract."""

import json

import pytest
import torch
from helpers import DISTIL, METHODS, SMALL, options, quick_for
from omegaconf import OmegaConf

from fairat_lightning.config.compose import resolved
from fairat_lightning.training import run as runs

OBJECTIVES = {"standard": ["at"], "bat": ["trades"], "absld": ["at"]}  # of a method that does not take every one
WITHOUT_AWP = ("standard", "decosam")
HEAD = "model.linear.weight"  # all that DecoSAM trains
COMPOSITIONS = [
    (method, objective, awp)
    for method in METHODS
    for objective in OBJECTIVES.get(method, options("objective"))
    for awp in options("awp")
    if method not in WITHOUT_AWP or awp == "none"
]


@pytest.mark.parametrize(
    "method,objective,awp",
    quick_for(
        COMPOSITIONS,
        *((m, "at", "none") for m in METHODS if m != "bat"),
        *((m, "trades", "awp") for m in METHODS),
        ("absld", "at", "awp"),
    ),
)
def test_it_trains_tests_and_saves_gradients_reach_every_parameter_modes_and_weights_come_back(
    compose, method, objective, awp, tmp_path
):
    job = job_of(compose, tmp_path, f"method={method}", f"objective={objective}", f"awp={awp}")
    seen = {}

    module, before = job.method, None
    original_step, original_after = module.training_step, module.on_after_backward

    def training_step(batch, batch_idx):
        nonlocal before
        before = {name: p.detach().clone() for name, p in module.net.named_parameters()}
        loss = original_step(batch, batch_idx)
        assert loss.isfinite() and loss.ndim == 0
        assert all(m.training == (method != "decosam") for m in module.net.modules())
        return loss

    def on_after_backward():
        original_after()
        for name, p in module.net.named_parameters():
            assert torch.equal(p, before[name]), f"{name} was not restored before the optimiser's step"
            if method == "decosam" and name != HEAD:
                assert p.grad is None, name
                continue
            assert p.grad is not None and p.grad.isfinite().all(), name
            seen[name] = seen.get(name, 0.0) + p.grad.abs().sum().item()

    module.training_step, module.on_after_backward = training_step, on_after_backward
    runs.execute(job)
    assert seen.keys() == ({HEAD} if method == "decosam" else before.keys()) and all(size > 0 for size in seen.values())
    metrics = json.loads((job.folder / "metrics.json").read_text())
    for name in ("clean", "pgd20", "cw20"):
        record = metrics[name]
        assert set(record) >= {"average", "worst", "worst_class", "per_class", "interval"}
        assert 0 <= record["worst"] <= record["average"] <= 1
        assert record["per_class"][record["worst_class"]] == record["worst"] == min(record["per_class"].values())
    for name in ("config.yaml", "run.json", "history.csv", "classes.png", "checkpoints/last.ckpt"):
        assert (job.folder / name).stat().st_size > 0
    checkpoint = torch.load(job.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values() if v.is_floating_point())
    assert checkpoint["epoch"] == 1


def job_of(compose, tmp_path, *overrides):
    return runs.prepare(OmegaConf.create(resolved(compose(*SMALL, *overrides))), tmp_path / "run")


AVERAGES = ("none", "ema", "swa", "fawa")
PAIRS = [
    (m, average, head)
    for m in METHODS
    for average in AVERAGES
    for head in ("none", "balanced")
    if (average, head) != ("none",) * 2
]
ONE_EACH = [(m, AVERAGES[1 + i % 3], "balanced") for i, m in enumerate(METHODS)]


@pytest.mark.parametrize("method,average,head", quick_for(PAIRS, *ONE_EACH))
def test_every_average_and_the_balanced_head_serve_every_method(launch, method, average, head):
    """The run is tested, and its checkpoint keeps the average's state and the head's."""
    words = [f"method={method}", f"averaging={average}", f"head={head}"]
    words += {"swa": ["averaging.start=0"], "fawa": ["averaging.threshold=0"]}.get(average, [])
    if method in (*DISTIL, "decosam"):
        words.append(f"{'init_from' if method == 'decosam' else 'method.teacher'}={launch('method=pgd_at', folder='other')[0]}")
    folder, metrics = launch(*words)
    assert all(0 <= metrics[name]["worst"] <= metrics[name]["average"] <= 1 for name in ("clean", "pgd20", "cw20"))
    assert ("head" in json.loads((folder / "run.json").read_text())) == (head == "balanced")
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert ("averaging_state" in checkpoint, "head" in checkpoint) == (average != "none", head == "balanced")
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values() if v.is_floating_point())


CHEAP = ("fgsm_rs", "n_fgsm", "pgd2")


@pytest.mark.parametrize(
    "method,attack", [(m, CHEAP[i % 3]) for i, m in enumerate(sorted(set(options("method")) - {"standard"}))]
)
def test_the_cheap_attacks_serve_every_method(compose, method, attack, tmp_path):
    words = [word for word in SMALL if not word.startswith("attack.steps")]
    cfg = compose(*words, f"method={method}", f"attack={attack}", "trainer.max_epochs=1")
    job = runs.prepare(OmegaConf.create(resolved(cfg)), tmp_path / "run")
    job.trainer.fit(job.method, job.datamodule)
    assert job.method.attack.steps == {"pgd2": 2}.get(attack, 1)
    assert all(p.isfinite().all() for p in job.method.net.parameters())


@pytest.mark.parametrize(
    "words,answer",
    [
        ("method=standard objective=trades", "set objective=at awp=none"),
        ("method=standard awp=awp", "set objective=at awp=none"),
        ("method=bat objective=at", "set objective=trades"),
        ("method=bat objective=mart", "set objective=trades"),
        ("method=decosam awp=awp", "set awp=none"),
        ("method=absld objective=trades", "set objective=at and objective.label_smoothing=0"),
    ],
)
def test_a_composition_without_a_meaning_is_refused(compose, tmp_path, words, answer):
    with pytest.raises(Exception, match=answer):
        job_of(compose, tmp_path, *words.split())


@pytest.mark.parametrize("method", quick_for(METHODS, "fairat", "cfol", "floor"))
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(launch, method):
    words = (f"method={method}", "deterministic=true", "trainer.max_epochs=1")
    runs = [launch(*words, f"seed={seed}", folder=f"run{i}")[0] for i, seed in enumerate((3, 3, 4))]
    torch.use_deterministic_algorithms(False)
    a, b, c = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in runs)
    assert all(torch.allclose(a[k], b[k], rtol=0, atol=0, equal_nan=True) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


LEARN = ("faal", "fairat", "cfol", "csr", "wat", "frl")  # a rule over classes or examples
QUICK = [("faal", 2), ("frl", 2), ("wat", 2), ("csr", 2), ("faal", 200)]


@pytest.mark.parametrize("method,classes", quick_for([(method, classes) for method in METHODS for classes in (2, 200)], *QUICK))
def test_any_number_of_classes(launch, method, classes):
    """200 classes of 2 training images each, 32 images a batch: most classes are absent from most batches."""
    images = {2: "64", 200: "2"}[classes]
    words = [f"data.load.num_classes={classes}", f"data.load.train_per_class={int(images) + 1}", "data.load.test_per_class=1"]
    words += ["data.train_size=null", "data.test_size=null", "data.image_size=15", "data.val_per_class=1"]
    if method in (*DISTIL, "decosam"):
        key = "init_from" if method == "decosam" else "method.teacher"
        words.append(f"{key}={launch('method=pgd_at', *words, folder='teacher')[0]}")
    folder, metrics = launch(f"method={method}", *words)
    assert len(metrics["pgd20"]["per_class"]) == classes
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(v.isfinite().all() for name, v in state.items() if name.startswith("net.") and v.is_floating_point())


@pytest.mark.parametrize("method", quick_for(METHODS, *LEARN))
def test_a_class_absent_from_training_and_another_from_validation(compose, method, tmp_path):
    job = job_of(compose, tmp_path, f"method={method}", "trainer.max_epochs=3")
    for images, absent, instead in ((job.datamodule.train, 0, 1), (job.datamodule.val, 3, 2)):
        images.targets[images.targets == absent] = instead
    runs.execute(job)
    state = torch.load(job.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(v.isfinite().all() for name, v in state.items() if name.startswith("net.") and v.is_floating_point())
    assert set(json.loads((job.folder / "metrics.json").read_text())["pgd20"]["per_class"]) == set(job.datamodule.classes)
