"""Wrong words: one line on stderr that names the value or the file, exit code 2, nothing written."""

import inspect

import lightning as L
import pytest
import torch
from helpers import FOLDER, LONG, SMALL, call, photos, refused

from fairat_lightning.models import preactresnet_tiny
from fairat_lightning.training.trainer import INSTEAD, UNSUPPORTED

# words -> what the one line must say; `{tmp}` stands for a fresh directory, {long} for a name too long for any file
WRONG = {
    "method=foal": "; did you mean faal?",
    "method=ham,trix": "method=ham,trix names several values: -m trains each of them in turn, and method=[ham,trix] is a list",
    "--cfg x": "argument --cfg/-c: invalid choice",
    "trainer.accelerator=auto trainer.devices=-2": "trainer.devices=-2 must be a number of processes",
    "method=pgd_at method.tau=1": "it belongs to method=decosam, method=frl",
    "metod=faal": "; did you mean method?",
    "attack.epsilon=0.1": "; did you mean attack.eps?",
    "atack.eps=0.1": "; did you mean attack.eps?",
    "lr=0.1": "; did you mean optim.lr?",
    "max_epoch=3": "; did you mean trainer.max_epochs?",
    "experimnt=digits_faal": "; did you mean experiment?",
    "hydra.run.dri=x": "; did you mean hydra.run.dir?",
    "method.radius=1": "no key method.radius in this configuration: it belongs to method=decosam, method=faal, method=floor",
    "nothing_like_it=1": "there is no key nothing_like_it: --help lists the usual keys\n",
    "--hlep": "; did you mean --help?",
    "--method=faal": "; did you mean method=faal?",
    "--seed 3": "; did you mean seed=VALUE?",
    "+atack.steps=3": "adds a key that is never read: this command has no atack; did you mean attack.steps?",
    "+optimizer.lr=1": "did you mean optim.lr?",
    "+foo=3": "adds a key that is never read: this command has no foo",
    "-m +foo=3 seed=0,1": "adds a key that is never read",
    "+trainer.max_epoch=3": "trainer.max_epoch is not a parameter of lightning.Trainer; did you mean trainer.max_epochs?",
    "trainer.fast_dev_run=true": "trainer.fast_dev_run cannot be set: set trainer.max_epochs=1",
    "+trainer.devices=2": "trainer.devices is already a key: set it without the +",
    "logger=[csv,wandbb]": "logger: wandbb is unknown: choose one of csv, tensorboard, wandb; did you mean wandb?",
    "logger=csv logger.wandb.group=x": "it belongs to logger=wandb",
    "hydra.run.dir=runs/a=b": """'hydra.run.dir="runs/a=b"'""",
    "seed = 3": "each setting must be written key=value, without spaces around the =",
    "select=summ": "did you mean sum?",
    "data=folder data.image_size=8 data.root={tmp}/none": "none does not exist",
    "init_from=pretrained:digits_fal": "; did you mean pretrained:digits_faal?",
    "attack.eps=8": "attack.eps=8",
    "attack.eps=-0.1": "attack.eps=-0.1",
    "attack.eps=big": "attack.eps=big",
    "attack.steps=2.5": "attack.steps=2.5",
    "select=best": "select=best",
    "seed=-1": "seed=-1",
    "seed=one": "seed=one",
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten",
    "trainer=tpu": "tpu",
    "optim.lr=-1": "optim.lr=-1",
    "optim.lr=fast": "optim.lr=fast",
    "optim.milestones=[2]": "optim.milestones=[2]",
    "method=faal method.radius=-1": "method.radius=-1",
    "method=fairat method.subset=some": "method.subset=some",
    "method=fairat method.augmentation=blur": "blur",
    "method=standard awp=awp": "set objective=at awp=none",
    "method=standard objective=trades": "set objective=at awp=none",
    "objective=trades objective.beta=-1": "objective.beta=-1",
    "objective.label_smoothing=1": "objective.label_smoothing=1",
    "awp=awp awp.gamma=-1": "awp.gamma=-1",
    "averaging=ema averaging.decay=1": "averaging.decay=1",
    "model.width=0": "model.width=0",
    "data.batch_size=0": "data.batch_size=0",
    "data.train_size=3": "data.train_size=3",
    "data.train_size=100000": "data.train_size=100000",
    "data=cifar10 data.root={tmp}/nowhere": "nowhere",
    "data=folder": "data.root",
    "init_from={tmp}/missing.pt": "missing.pt",
    "experiment=digits_faal": "init_from",
    "overwrite=no": "overwrite=no",
    "method=faal method.count_weighted=no": "count_weighted=no",
    "model.channels_last=no": "channels_last=no",
    "optim.nesterov=off": "nesterov=off",
    "optim=onecycle optim.warmup=2": "optim.warmup=2",
    "experiment=fairat_preactresnet18 optim=onecycle": "~optim.milestones removes it where a recipe has set it",
    "attack=fgsm objective=trades": "attack.start=zero",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run=True cannot be set: set trainer.max_epochs=1",
    "trainer.accelerator=mps": "use trainer=cpu",
    "+trainer.check_val_every_n_epoch=2": "check_val_every_n_epoch=2",
    "+awp.gamma=0.1": "awp.gamma",
    "+method.gama=0.1": "gama",
    "model=null": "group",
    "init_from=5": "init_from=5",
    "data.root=nowhere": "data.root=nowhere",
    "data=synthetic model=timm model.image_size=16": "model.image_size=16",
    "--foo": "--foo",
    "hydra.run.dir=/dev/null/run": "hydra.run.dir=/dev/null/run",
    "model._target_=os.system": "os.system",
    "method._target_=builtins.eval": "builtins.eval",
    "data.load._target_=shutil.rmtree": "shutil.rmtree",
    "'": "'",
    # Lightning's trainer
    "+trainer.limit_train_batches=0": "trainer.limit_train_batches=0 is not supported: set data.train_size=N",
    "+trainer.limit_train_batches=0.5": "data.train_size=N",
    "+trainer.limit_val_batches=0": "data.val_per_class=N",
    "+trainer.limit_test_batches=0": "data.test_size=N",
    "+trainer.overfit_batches=1": "trainer.overfit_batches=1",
    "+trainer.max_steps=1": "trainer.max_epochs=N",
    "+trainer.max_time=00:00:00:00": "trainer.max_time=",
    "+trainer.min_epochs=3": "trainer.min_epochs=3",
    "+trainer.val_check_interval=5": "trainer.val_check_interval=5",
    "+trainer.detect_anomaly=x": "trainer.detect_anomaly=x",
    "+trainer.benchmark=x": "trainer.benchmark=x",
    "+trainer.callbacks=[]": "trainer.callbacks=[] cannot be set",
    "+trainer.logger=true": "trainer.logger=True",
    "+trainer.enable_checkpointing=false": "set save_minutes=N",
    "+trainer.foo=1": "foo",
    "trainer.max_epochs=true": "trainer.max_epochs=True",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0",
    "trainer.accumulate_grad_batches=1.5": "trainer.accumulate_grad_batches=1.5",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1",
    "trainer.gradient_clip_val=nan": "trainer.gradient_clip_val=nan",
    "trainer.devices=0": "trainer.devices=0",
    "trainer.devices=99": "trainer.devices=99",
    "trainer.devices=x": "trainer.devices=x",
    "trainer.devices=2 data.batch_size=31": "data.batch_size=31 is the global batch and 2 processes",
    "trainer.num_nodes=0": "num_nodes",
    "trainer.strategy=x": "trainer.strategy=x",
    "trainer.accelerator=x": "accelerator='x'",
    "trainer._target_=torch.nope": "torch.nope",
    "save_minutes=0": "save_minutes=0",
    "save_minutes=nan": "save_minutes=nan",
    "on_nonfinite=ignore": "on_nonfinite=ignore",
    "on_collapse=null": "on_collapse=None",
    # numbers that are none
    "attack.eps=true": "attack.eps=True",
    "attack.noise=1": "attack.noise=1",
    "optim.lr=true": "optim.lr=True",
    "optim.lr=inf": "optim.lr=inf",
    "optim.momentum=1": "optim.momentum=1",
    "optim.momentum=0 optim.nesterov=true": "optim.nesterov=True",
    "optim._partial_=false optim._target_=null": "_target_=None",
    "objective=mart objective.beta=true": "objective.beta=True",
    "model.width=true": "model.width=True",
    "model.width=1000000000": "model cannot be built",
    "model.mean=[0.1,0.2]": "model.mean=[0.1, 0.2]",
    "model.std=[0]": "model.std=[0.0]",
    "method=frl method.batch_normalized=x": "method.batch_normalized=x",
    "method=fairat method.hard_fraction=true": "method.hard_fraction=True",
    "method=fairat method.hard_fraction=null method.hard_threshold=nan": "method.hard_threshold=nan",
    "method=fairat method.warmup_epochs=true": "method.warmup_epochs=True",
    "awp=awp awp.warmup_epochs=true": "awp.warmup_epochs=True",
    "seed=true": "seed=True",
    # groups, and what they read
    "method=[pgd_at]": "method must be one option of its group",
    "method=[0.5]": "a group was not set to the name",
    "~objective": "objective must be one option of its group",
    "method=fair_ard": "method.teacher=PATH",
    "method=fair_ard method.teacher={tmp}/missing": "missing does not exist",
    "method=fair_ard method.teacher=": "method.teacher: '' must be a path",
    "init_from=": "init_from= must be a path",
    "init_from='~nobody_of_this_name/x'": "~nobody_of_this_name/x cannot be read",
    "init_from={long}": "cannot be read: File name too long",
    "data=folder data.root={long}": "cannot be read: File name too long",
    "hydra.run.dir={tmp}/{long}": "cannot be read: File name too long",
    "hydra.run.dir=null": "hydra.run.dir=null",
    "data.load=null": "data.load=None",
    "data.load._target_=fairat_lightning.data.nope": "fairat_lightning.data.nope",
    "data.load._target_=fairat_lightning.data.sets.digits": "data.load: digits() got an unexpected",
    "data.load.num_classes=x": "data.load.num_classes=x",
    "data.load.num_classes=2.5": "data.load.num_classes=2.5",
    "data.load.train_per_class=-1": "data.load.train_per_class=-1",
    "data.load.train_per_class=1000000000000": "do not fit into the memory",
    "data.load.test_per_class=0": "data.load.test_per_class=0",
    "data.padding=9": "data.padding=9",
    "data.eval_batch_size=0": "data.eval_batch_size=0",
    "data.val_per_class=1000": "data.val_per_class=1000",
    "data.image_size=2 data.batch_size=1": "data.batch_size=1",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words(monkeypatch, capsys, tmp_path, words):
    split = [word.replace("{tmp}", str(tmp_path)).replace("{long}", LONG) for word in words.split(" ")]
    code, _, err = call(monkeypatch, capsys, tmp_path, *([] if "data=" in words else SMALL), *split)
    refused(code, err, WRONG[words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_cuda_trainer_without_cuda(monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "trainer=gpu")
    refused(code, err, "trainer=cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_does_not_exist_is_set_beside_those_that_do(monkeypatch, capsys, tmp_path):
    (tmp_path / "runs" / "base" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "base" / "checkpoints" / "last.ckpt").write_text("")
    for word in ("init_from=runs/bsae", "init_from=rnus/base", "method.teacher=runs/bsae"):
        code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, *["method=fair_ard"] * ("teacher" in word), word)
        refused(code, err, "does not exist: give a run folder or a checkpoint; did you mean runs/base?")
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "init_from=runs/bsae/checkpoints/last.ckpt")
    refused(code, err, "; did you mean runs/base/checkpoints/last.ckpt?")
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "init_from=runs/bsae/checkpoints/best.ckpt")
    assert "did you mean" not in err  # there is none of that name
    code, _, err = call(monkeypatch, capsys, tmp_path, "A=runs/bsae", command="report")
    refused(code, err, "; did you mean runs/base?")


JUDGE = ("checkpoint=pretrained:digits_faal",)
OTHERS = {  # command -> words, and what they were meant to be
    "evaluate": [
        (("sute=quick",), "suite"),
        (("suite=quik",), "quick"),
        (("attack.epsilon=0.1",), "attack.eps"),
        (("checkpoint=pretrained:digits_fal",), "pretrained:digits_faal"),
    ],
    "search": [(("optim.lr=0.1,0.2", "trails=3"), "trials"), (("optm.lr=0.1,0.2",), "optim.lr")],
    "reproduce": [(("table=faal", "buget=smoke"), "budget")],
    "balance": [(("overwrit=true",), "overwrite")],
    "export": [(("overwrit=true",), "overwrite")],
}


@pytest.mark.parametrize("command", OTHERS)
def test_what_was_meant_in_the_other_commands(monkeypatch, capsys, tmp_path, command):
    for words, meant in OTHERS[command]:
        first = JUDGE if command in ("evaluate", "balance", "export") and not words[0].startswith("checkpoint") else ()
        code, _, err = call(monkeypatch, capsys, tmp_path, *first, *words, command=command)
        refused(code, err, f"; did you mean {meant}?")


def test_the_class_that_was_meant(monkeypatch, capsys, tmp_path):
    photos(tmp_path, ("cat", "dog", "aeroplane"))
    words = [word for word in FOLDER if not word.startswith(("trainer", "attack", "hydra"))]
    net = preactresnet_tiny(num_classes=3, in_channels=3, width=2, mean=[0.5], std=[0.5])
    torch.save(net.model.state_dict(), tmp_path / "weights.pt")
    for word, meant in {
        "classes=[Cat]": "cat",
        "classes=[cat,areoplane]": "aeroplane",
        "samples_per_class=1 in_full=[dogs]": "dog",
    }.items():
        code, _, err = call(monkeypatch, capsys, tmp_path, "checkpoint=weights.pt", *words, *word.split(), command="evaluate")
        refused(code, err, f"; did you mean {meant}?")


def test_every_key_of_the_trainer_that_is_refused_says_what_to_do_instead(monkeypatch, capsys, tmp_path):
    """None is passed on that this package sets, and none ends in Lightning's own words."""
    taken = "accelerator devices strategy num_nodes precision max_epochs accumulate_grad_batches gradient_clip_val"
    free = "enable_progress_bar log_every_n_steps gradient_clip_algorithm benchmark profiler detect_anomaly "
    free += "enable_autolog_hparams model_registry"
    asked = set(inspect.signature(L.Trainer).parameters) - {*taken.split(), *free.split(), "limit_predict_batches"}
    assert asked == UNSUPPORTED.keys() | INSTEAD.keys()
    for key in sorted(asked):
        code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, f"+trainer.{key}=7")
        refused(code, err, (UNSUPPORTED | INSTEAD).get(key))
    for value in ("false", "null"):  # what it is anyway
        code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, f"+trainer.fast_dev_run={value}", "select=best")
        refused(code, err, "select=best")
