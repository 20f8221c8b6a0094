"""Wrong input: one line on stderr that names the value or the file, exit code 2, nothing written. What is fine runs."""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from test_command import METHODS, call, start

from fairat_lightning import __main__ as command
from fairat_lightning import balance, evaluate, export
from fairat_lightning.models.weights import load_weights
from fairat_lightning.report.__main__ import main as report

LONG = "a" * 300

# words -> what the one line must say; `{tmp}` stands for a fresh directory, {long} for a name too long for any file
WRONG = {
    "method=foal": "foal",
    "metod=faal": "metod",
    "attack.epsilon=0.1": "epsilon",
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
    "method=standard awp=awp": "objective=at awp=none only",
    "method=standard objective=trades": "objective=at awp=none only",
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
    "attack=fgsm objective=trades": "attack.start=zero",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run=True",
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
    "+trainer.callbacks=[]": "trainer.callbacks=[] is not yours to set",
    "+trainer.logger=true": "trainer.logger=True",
    "+trainer.enable_checkpointing=false": "enable_checkpointing=False",
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
    "method=[0.5]": "a group was given something else",
    "~objective": "objective must be one option of its group",
    "method=fair_ard": "method.teacher=PATH",
    "method=fair_ard method.teacher={tmp}/missing": "missing does not exist",
    "method=fair_ard method.teacher=": "method.teacher=",
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
    "data.load.train_per_class=1000000000000": "do not fit the memory",
    "data.load.test_per_class=0": "data.load.test_per_class=0",
    "data.padding=9": "data.padding=9",
    "data.eval_batch_size=0": "data.eval_batch_size=0",
    "data.val_per_class=1000": "data.val_per_class=1000",
    "data.image_size=2 data.batch_size=1": "data.batch_size=1",
}


def refused(code: int, err: str, said: str) -> None:
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, (code, err)
    assert len(err) < 600, err


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


# -- the user's own images

FOLDER = (
    *("data=folder", "data.root=photos", "data.image_size=8", "data.batch_size=8", "data.padding=1", "model=preactresnet_tiny"),
    *("model.width=2", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "attack.steps=1", "hydra.run.dir=run"),
)
KINDS = {"grey": "L", "rgba": "RGBA", "bits": "1", "palette": "P", "cmyk": "CMYK"}


def picture(path: Path, *, kind: str = "", size: tuple[int, int] = (9, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels).convert(KINDS.get(kind, "RGB"))
    if kind == "16-bit":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    image.save(path)
    return path


def photos(at: Path, classes=("cat", "dog"), *, parts=("train", "test"), images: int = 3, **options) -> Path:
    for part in parts:
        for name in classes:
            for i in range(images):
                picture(at / "photos" / part / name / f"{i}.png", **options)
    return at / "photos"


def no_train(tmp):
    photos(tmp, parts=("test",))


def train_is_a_file(tmp):
    (tmp / "photos").mkdir()
    (tmp / "photos" / "train").write_text("cat")


def file_for_test(tmp):
    photos(tmp, parts=("train",))
    (tmp / "photos" / "test").write_text("cat")


def link_to_nowhere_for_test(tmp):
    photos(tmp, parts=("train",))
    (tmp / "photos" / "test").symlink_to(tmp / "nowhere")


def root_is_a_file(tmp):
    (tmp / "photos").write_text("cat")


def one_class_only(tmp):
    photos(tmp, ("cat",))


def no_class(tmp):
    (tmp / "photos" / "train").mkdir(parents=True)


def class_missing_in_test(tmp):
    shutil.rmtree(photos(tmp, ("cat", "dog", "emu")) / "test" / "emu")


def class_missing_in_train(tmp):
    shutil.rmtree(photos(tmp, ("cat", "dog", "emu")) / "train" / "emu")


def class_without_images(tmp):
    for part in ("train", "test"):
        (photos(tmp) / part / "emu").mkdir()


def class_of_other_files(tmp):
    (photos(tmp) / "train" / "emu").mkdir()
    (tmp / "photos/train/emu/0.gif").write_bytes(b"GIF89a")


def one_image_a_class(tmp):
    photos(tmp, images=1)


def one_image_and_no_test(tmp):
    photos(tmp, images=1, parts=("train",))


def empty_image(tmp):
    (photos(tmp) / "train/cat/bad.png").touch()


def text_for_an_image(tmp):
    (photos(tmp) / "test/cat/bad.png").write_text("not a picture")


def half_a_jpeg(tmp):
    path = picture(photos(tmp) / "train/cat/bad.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:900])


def bomb(tmp):
    path = picture(photos(tmp) / "train/cat/bad.png")
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4) * 2  # the header's width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)


def link_to_itself(tmp):
    (photos(tmp) / "train/cat/bad.png").symlink_to("bad.png")


def link_to_nowhere(tmp):
    (photos(tmp) / "train/cat/bad.png").symlink_to(tmp / "nowhere.png")


def pipe(tmp):
    os.mkfifo(photos(tmp) / "train/cat/bad.png")


def folder_for_an_image(tmp):
    (photos(tmp) / "train/cat/bad.png").mkdir()


def class_name_in_other_bytes(tmp):
    for part in ("train", "test"):
        (photos(tmp) / part / "cat").rename(os.fsdecode(os.fsencode(tmp / "photos" / part) + b"/\xff\xfe"))


def no_size(tmp):
    photos(tmp)
    return "data.image_size=null"


def size_beyond_memory(tmp):
    photos(tmp)
    return "data.image_size=100000000"


def two_means_for_three_channels(tmp):
    photos(tmp)
    return "model.mean=[0.5,0.5]"


def one_value_a_channel(tmp):
    photos(tmp)
    return "data.image_size=4 data.batch_size=1"


def more_validation_than_images(tmp):
    photos(tmp)
    return "data.val_per_class=3"


FOLDERS: dict[Callable[[Path], str | None], str] = {
    no_train: "has no folder train",
    train_is_a_file: "has no folder train",
    file_for_test: "photos/test is no folder",
    link_to_nowhere_for_test: "photos/test is no folder",
    root_is_a_file: "has no folder train",
    one_class_only: "at least 2 are needed",
    no_class: "has 0 folders of classes",
    class_missing_in_test: "class 'emu' is in photos/train but not in photos/test",
    class_missing_in_train: "class 'emu' is in photos/test but not in photos/train",
    class_without_images: "photos/train/emu holds no .png",
    class_of_other_files: "photos/train/emu holds no .png",
    one_image_a_class: "no training image of class 'cat', which has 1 in all: add images",
    one_image_and_no_test: "class 'cat' has 1 image",
    empty_image: "photos/train/cat/bad.png",
    text_for_an_image: "photos/test/cat/bad.png",
    half_a_jpeg: "truncated",
    bomb: "exceeds limit",
    link_to_itself: "bad.png: it is no file",
    link_to_nowhere: "bad.png: it is no file",
    pipe: "bad.png: it is no file",
    folder_for_an_image: "bad.png: it is no file",
    class_name_in_other_bytes: "no UTF-8",
    no_size: "data.image_size is not set",
    size_beyond_memory: "data.image_size=100000000",
    two_means_for_three_channels: "model.mean=[0.5, 0.5]",
    one_value_a_channel: "data.batch_size=1: Expected more than 1 value per channel",
    more_validation_than_images: "data.val_per_class=3",
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_wrong_folders(monkeypatch, capsys, tmp_path, make):
    extra = (make(tmp_path) or "").split()
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER, *extra)
    refused(code, err, FOLDERS[make])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("part", ["", "train", "train/cat", "train/cat/0.png"])
def test_a_folder_that_may_not_be_read(monkeypatch, capsys, tmp_path, part):
    path = photos(tmp_path) / part
    path.chmod(0)
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER)
    path.chmod(0o755)
    refused(code, err, "Permission denied")


def test_what_the_system_refuses_to_read_is_one_line(monkeypatch, capsys, tmp_path):
    photos(tmp_path)

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER)
    refused(code, err, "Permission denied: 'photos/train'")


def mixed_kinds_and_sizes(tmp):
    for k, kind in enumerate([*KINDS, "16-bit"]):
        picture(photos(tmp) / f"train/cat/{kind}.{'jpg' if kind == 'cmyk' else 'png'}", kind=kind, size=(1 + 9 * k, 20))


def unicode_names(tmp):
    photos(tmp, ("Füchse 狐", "ein Hund, braun=1 [x] {y} $z_"))
    (tmp / "photos").rename(tmp / "Bilder ä=1")
    return ["data.root='Bilder ä=1'"]


def names_that_differ_in_case(tmp):
    photos(tmp, ("Cat", "cat"))


def read_only(tmp):
    for path in [*photos(tmp).rglob("*"), tmp / "photos"]:
        path.chmod(0o555 if path.is_dir() else 0o444)


FINE: dict[Callable[[Path], list[str] | None], str] = {
    lambda tmp: photos(tmp, kind="grey") and None: "grey images",
    lambda tmp: photos(tmp, kind="16-bit") and None: "16 bits a pixel",
    lambda tmp: photos(tmp, size=(5, 30)) and ["data.image_size=5"]: "another size than 32",
    lambda tmp: photos(tmp, [f"c{i:02}" for i in range(20)], images=2) and None: "more classes than a batch",
    lambda tmp: photos(tmp, images=2) and ["data.batch_size=128"]: "fewer images than a batch",
    mixed_kinds_and_sizes: "mixed kinds and sizes",
    unicode_names: "unicode names",
    names_that_differ_in_case: "names that differ in case",
    read_only: "a folder that is read only",
}


@pytest.mark.parametrize("make", FINE, ids=FINE.values())
def test_what_is_fine_runs(monkeypatch, capsys, tmp_path, make):
    code, out, err = call(monkeypatch, capsys, tmp_path, *FOLDER, *(make(tmp_path) or []))
    assert code == 0 and (tmp_path / "run" / "metrics.json").exists(), err


def test_a_folder_of_any_name_runs_and_is_shown(monkeypatch, capsys, tmp_path):
    where = "hydra.run.dir='[red]Läufe[/b] $x_ 1'"
    code, out, err = call(monkeypatch, capsys, tmp_path, *SMALL, "trainer.max_epochs=1", where)
    assert code == 0 and "[red]Läufe[/b] $x_ 1/metrics.json" in out, err


IDX = {
    "label": (np.arange(20) % 11, "the label 10, which is none of the 10 classes"),
    "count": (np.arange(19) % 10, "targets"),
    "missing": (np.arange(20) % 9, "class 'Ankle boot', which has 0 in all"),
    "empty": (np.arange(0), "no training images"),
}


@pytest.mark.parametrize("case", IDX)
def test_labels_that_do_not_fit_their_images(monkeypatch, capsys, tmp_path, case):
    labels, said = IDX[case]
    images = np.zeros((0 if case == "empty" else 20, 28, 28))
    for part in ("train", "t10k"):
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = b"\0\0\x08" + bytes([values.ndim]) + np.asarray(values.shape, ">i4").tobytes()
            (tmp_path / name).write_bytes(head + values.astype(np.uint8).tobytes())
    words = ("data=fashion_mnist", f"data.root={tmp_path}", "model.width=1", "trainer=cpu")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words)
    refused(code, err, said)
    assert len(list(tmp_path.iterdir())) == 4


# -- a run's folder, and other files with weights

RUN = (*SMALL, "trainer.max_epochs=1", "method=pgd_at", "hydra.run.dir=run")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["x", *RUN])
        command.main()
    return place / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A finished run of RUN in tmp_path."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def text(name: str, content: str | bytes, *, finished: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        if not finished:
            (run / "metrics.json").unlink()
        path = run / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)

    return damage


def gone(name: str, *, folder: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / "metrics.json").unlink()
        (run / name).unlink()
        if folder:
            (run / name).mkdir()

    return damage


def checkpoint(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / "metrics.json").unlink()
        content = torch.load(run / "checkpoints" / name, weights_only=True)
        change(content)
        torch.save(content, run / "checkpoints" / name)

    return damage


LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
OTHER = {"net.model.linear.weight": torch.zeros(9, 9)}
DAMAGED = {
    "metrics.json is cut": (text("metrics.json", "{", finished=True), "metrics.json is not a run's metrics.json"),
    "metrics.json in other bytes": (text("metrics.json", b"\xff\xfe", finished=True), "metrics.json is not"),
    "metrics.json of words": (
        text("metrics.json", '{"clean": {"average": "x", "worst": "y", "per_class": {"a": "z"}}}', finished=True),
        "metrics.json is not",
    ),
    "config.yaml is cut": (text("config.yaml", "a: ["), "config.yaml is missing or damaged"),
    "config.yaml in other bytes": (text("config.yaml", b"\xff\xfe"), "config.yaml is missing or damaged"),
    "config.yaml is gone": (gone("config.yaml"), "config.yaml is missing or damaged"),
    "config.yaml of another run": (text("config.yaml", "seed: 3"), "run of another configuration"),
    "run.json is cut": (text("run.json", "{"), "run.json is missing or damaged"),
    "run.json is a list": (text("run.json", "[]"), "run.json is missing or damaged"),
    "history.csv is gone": (gone("history.csv"), "history.csv is missing or damaged"),
    "history.csv is a folder": (gone("history.csv", folder=True), "history.csv is missing or damaged"),
    "history.csv of others": (text("history.csv", "a,b\n1,2\n"), "history.csv is missing or damaged"),
    "history.csv in other bytes": (text("history.csv", b"\xff\xfe"), "history.csv is missing or damaged"),
    "last.ckpt is empty": (text(LAST, b""), "last.ckpt is damaged"),
    "last.ckpt is a folder": (gone(LAST, folder=True), "last.ckpt is damaged"),
    "last.ckpt of another version": (checkpoint("last.ckpt", lambda c: c.update(format=0)), "another version"),
    "last.ckpt without a version": (checkpoint("last.ckpt", lambda c: c.pop("format")), "another version"),
    "last.ckpt without weights": (checkpoint("last.ckpt", lambda c: c.pop("state_dict")), "does not hold this run's network"),
    "last.ckpt without optimiser": (checkpoint("last.ckpt", lambda c: c.pop("optimizer_states")), "does not hold"),
    "last.ckpt of another network": (checkpoint("last.ckpt", lambda c: c["state_dict"].update(OTHER)), "does not hold"),
    "best.ckpt is gone": (gone(BEST), "best.ckpt is missing"),
    "best.ckpt is cut": (text(BEST, b"x"), "best.ckpt is damaged"),
    "best.ckpt of another network": (checkpoint("best.ckpt", lambda c: c["state_dict"].update(OTHER)), "does not hold"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_left_as_it_is_and_made_anew_where_asked(monkeypatch, capsys, tmp_path, run, case):
    damage, said = DAMAGED[case]
    damage(run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    refused(code, err, said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "overwrite=true" in err or "metrics.json" in err
    if case in ("best.ckpt is gone", "history.csv is a folder"):
        assert call(monkeypatch, capsys, tmp_path, *RUN, "overwrite=true")[0] == 0


def test_last_and_the_one_before_it_damaged(monkeypatch, capsys, tmp_path, run):
    shutil.copy(run / LAST, run / "checkpoints" / "previous.ckpt")
    text(LAST, b"x")(run)
    (run / "checkpoints" / "previous.ckpt").write_bytes(b"y")
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    refused(code, err, "last.ckpt is damaged")


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_a_folder_that_is_none(monkeypatch, capsys, tmp_path, kind):
    place = tmp_path / "run"
    place.write_text("mine") if kind == "file" else place.symlink_to("nowhere/x" if kind == "link" else "run")
    for where in ("run", "run/below"):
        code, _, err = call(monkeypatch, capsys, tmp_path, *RUN, f"hydra.run.dir={where}")
        if code or kind != "link":
            refused(code, err, "hydra.run.dir=")
    assert place.is_symlink() or place.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_in_one_that_may_not_be_written(monkeypatch, capsys, tmp_path):
    tmp_path.chmod(0o555)
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    tmp_path.chmod(0o755)
    refused(code, err, "cannot be made: Permission denied")


def weights(change: Callable[[dict], dict]) -> Callable[[Path], str]:
    def make(run: Path) -> str:
        state = torch.load(run / BEST, weights_only=True)["state_dict"]
        net = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
        torch.save(change(net), run.parent / "w.pt")
        return "init_from=w.pt"

    return make


BASES: dict[str, tuple[Callable[[Path], str], str]] = {
    "nan": (weights(lambda net: {k: v * torch.nan for k, v in net.items()}), "is nan or infinite"),
    "whole numbers": (weights(lambda net: {k: v.to(torch.int8) for k, v in net.items()}), "as torch.int8"),
    "complex": (weights(lambda net: {k: v.to(torch.complex64) for k, v in net.items()}), "as torch.complex64"),
    "no tensors": (weights(lambda net: {"epoch": 3}), "w.pt holds no network weights"),
    "an empty file": (lambda run: (run.parent / "w.pt").write_bytes(b"") and "" or "init_from=w.pt", "w.pt cannot be read"),
    "a device": (lambda run: "init_from=/dev/null", "/dev/null cannot be read"),
    "a folder within a run": (lambda run: "init_from=run/checkpoints", "holds no checkpoints/best.ckpt"),
    "other classes": (lambda run: "init_from=run data.load.num_classes=5", "another number of classes"),
    "another width": (lambda run: "init_from=run model.width=3", "another width"),
    "another architecture": (lambda run: "init_from=run model=resnet18", "another architecture"),
    "another mean": (lambda run: "init_from=run model.mean=[0.1]", "set model.mean=[0.5]"),
    "a teacher of other classes": (
        lambda run: "method=fair_ard method.teacher=run data.load.num_classes=5",
        "run/checkpoints/best.ckpt does not fit",
    ),
    "a teacher whose config.yaml is none": (
        lambda run: (run / "config.yaml").write_text("model: 5") and "method=fair_ard method.teacher=run",
        "run/config.yaml has no model",
    ),
    "a teacher whose config.yaml is in other bytes": (
        lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe") and "method=fair_ard method.teacher=run",
        "run/config.yaml cannot be read",
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_weights_to_start_from(monkeypatch, capsys, tmp_path, run, case):
    make, said = BASES[case]
    words = make(run).split()
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN, "hydra.run.dir=new", *words)
    refused(code, err, said)
    assert sorted(tmp_path.rglob("*")) == before


def test_half_precision_is_fine(run, compose, tmp_path):
    from fairat_lightning.models import preactresnet_tiny

    weights(lambda net: {name: value.half() for name, value in net.items()})(run)
    load_weights(preactresnet_tiny(num_classes=4, in_channels=1, width=4, mean=[0.5], std=[0.25]), tmp_path / "w.pt")


# -- the other commands

JUDGED = {"evaluate": evaluate.main, "export": export.main}
OTHERS = {
    "checkpoint": "cannot read checkpoint, each word must be key=value",
    "checkpoint=": "checkpoint= must be a path",
    "checkpoint=5": "checkpoint=5 must be a path",
    "checkpoint={long}": "cannot be read: File name too long",
    "checkpoint='~nobody_of_this_name/x'": "~nobody_of_this_name/x cannot be read",
    "checkpoint=run model.width=1,2": "one value a key",
    "checkpoint=run model=null": "a group was given something else",
    "checkpoint=run ~model": "model",
    "checkpoint=run data.load.num_classes=x": "data.load.num_classes=x",
    "checkpoint=run data.load=null": "data.load=None",
    "checkpoint=run model._target_=null": "_target_=None",
    "checkpoint=run overwrite=x": "overwrite=x",
    "checkpoint=run to={long}": "File name too long",
    "checkpoint=run to=''": "to= must be a path",
}
ALONE = {
    "evaluate name={long}": "100 letters at most",
    "evaluate name=.": "name=.",
    "evaluate suite=null": "a group was given something else",
    "evaluate suite=sweep suite.multiples=[inf]": "suite.multiples=[inf]",
    "evaluate suite=standard suite.other_eps=-1": "suite.other_eps=-1",
    "evaluate suite=corruptions suite.root=5": "suite.root=5",
    "evaluate suite._target_=os.system": "_target_=os.system is not allowed",
    "evaluate +suite.foo=1": "suite:",
    "export to=run": "it is never replaced",
    "balance to=nowhere/x.pt": "to=nowhere/x.pt",
    "balance head._target_=os.system": "os.system",
}


def other(monkeypatch, capsys, cwd: Path, name: str, *words: str) -> tuple[int, str]:
    """Another command in this process: its exit code and stderr."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    code = 0
    try:
        if name == "balance":
            balance.main()
        elif name == "report":
            report()
        else:
            command.start(JUDGED[name], "help")
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("name", ["evaluate", "export", "balance"])
def test_other_commands(monkeypatch, capsys, tmp_path, run, name):
    before = sorted(tmp_path.rglob("*"))
    cases = OTHERS | {w.removeprefix(name): said for w, said in ALONE.items() if w.startswith(name + " ")}
    for words, said in cases.items():
        split = words.replace("{long}", LONG).split()
        split = ["checkpoint=run", *split] if words.startswith(" ") else split
        if name == "export" and not any(word.startswith("to=") for word in split):
            split.append("to=out")
        code, err = other(monkeypatch, capsys, tmp_path, name, *split)
        refused(code, err, said)
        assert sorted(tmp_path.rglob("*")) == before, words


@pytest.mark.parametrize("name", ["evaluate", "export", "balance"])
def test_other_commands_on_a_damaged_run(monkeypatch, capsys, tmp_path, run, name):
    to = ["to=out"] if name == "export" else []
    config = (run / "config.yaml").read_text()
    for content, said in {
        b"\xff\xfe": "config.yaml cannot be read",
        b"a: [": "config.yaml cannot be read",
        config.replace("seed: 0", "seed: ${nothing}").encode(): "config.yaml cannot be read",
        config.replace("fairat_lightning.models.preactresnet_tiny", "os.system").encode(): "_target_=os.system",
    }.items():
        (run / "config.yaml").write_bytes(content)
        code, err = other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to)
        refused(code, err, said)
    (run / "config.yaml").write_text(config)
    (run / BEST).write_bytes(b"half")
    refused(*other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to), "best.ckpt cannot be read")
    (run / BEST).unlink()
    refused(*other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to), "holds no checkpoints/best.ckpt")
    assert not (tmp_path / "out").exists() and not (run / "evaluation").exists()


def test_report(monkeypatch, capsys, tmp_path, run):
    for words, said in {
        "": "arguments are required",
        "run --to": "--to",
        "run --sort=x": "--sort",
        "run nowhere": "nowhere holds no finished run",
        "run run": "names the same folder",
        "=run": "unreadable label",
        LONG: "File name too long",
        f"run --to {LONG}": "File name too long",
        "run --to run/config.yaml": "is a file",
    }.items():
        refused(*other(monkeypatch, capsys, tmp_path, "report", *words.split()), said)
    (run / "metrics.json").unlink()
    refused(*other(monkeypatch, capsys, tmp_path, "report", "run"), "holds no finished run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# -- real processes


@pytest.mark.parametrize(
    "module,words,said",
    [
        ("fairat_lightning", (*SMALL, "trainer.devices=99"), "trainer.devices=99"),
        ("fairat_lightning", FOLDER, "photos/train/cat/bad.png: it is no file"),
        ("fairat_lightning.evaluate", ("checkpoint=photos",), "photos has no config.yaml"),
    ],
)
def test_real_processes(tmp_path, module, words, said):
    pipe(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = start(tmp_path, *words, module=module)
    refused(done.returncode, done.stderr, said)
    assert sorted(tmp_path.rglob("*")) == before


# -- fuzz: any value for any key of the composed configuration

TINY = (*SMALL, "trainer.max_epochs=1", "data.train_size=16", "data.test_size=8", "data.batch_size=8", "attack.steps=1")
ODD = (
    *("null", "true", "false", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1.5", "1e-30", "1e30", "-1e30", "16"),
    *("''", "x", "none", "auto", "8/255", "2 eps", "'ü 狐'", "'a b'", "'[/b]'", "'$x_{'", "'%s'", "'../x'", "'~nobody_here/x'"),
    *(
        "[]",
        "[1]",
        "[0.5,0.5]",
        "[null]",
        "[x]",
        "[[]]",
        "{}",
        "{a:1}",
        "{_target_:os.system}",
        "'${nothing}'",
        "'${seed}'",
        "'???'",
    ),
)
LARGE = ("1000000000000", "1" + "0" * 400)
GROUPS = {group: sorted(p.stem for p in (command.CONF / group).glob("*.yaml")) for group in ("objective", "awp", "averaging")} | {
    "method": METHODS,
    "attack": ["fgsm", "fgsm_rs", "l2_pgd10", "n_fgsm", "pgd2"],
    "head": ["balanced", "none"],
    "optim": ["multistep", "onecycle"],
    "trainer": ["auto", "cpu"],
    "logger": ["csv", "tensorboard"],
    "model": ["preactresnet_tiny"],
}
# What a drawn value would only make slow, or start in other processes: sizes, counts and hardware.
LEFT_OUT = (
    "trainer.strategy",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.devices",
    "compile",
    "hydra",
    "data.load._target_",
)
SMALL_ONLY = ("trainer.max_epochs", "attack.steps", "model.width", "image_size", "per_class", "num_classes", "padding", "devices")


NEAR = {
    bool: ("true", "false"),
    int: ("1", "2", "3"),
    float: ("0.1", "0.5", "0", "1"),
    list: ("[0.5]", "[0.25,0.75]"),
    type(None): ("null",),
}


def values(node: object, above: str = "") -> dict[str, object]:
    """Every value of a configuration by its dotted key, and what holds them; no value for a whole part."""
    found = {above: node} if above else {}
    for name, child in node.items() if isinstance(node, dict) else ():
        found |= values(child, f"{above}.{name}".strip("."))
    return found


@st.composite
def overrides(draw, compose: Callable[..., DictConfig]) -> list[str]:
    """A few options of groups, and a few values for keys that the configuration then has, a third of them odd at least."""
    chosen = draw(st.dictionaries(st.sampled_from(sorted(GROUPS)), st.integers(0, 99), max_size=4))
    options = [f"{group}={GROUPS[group][k % len(GROUPS[group])]}" for group, k in chosen.items()]
    found = values(OmegaConf.to_container(compose(*TINY, *options), resolve=False))
    keys = sorted(key for key in found if not key.startswith(LEFT_OUT))
    words = []
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True)):
        odd = ODD if any(part in key for part in SMALL_ONLY) else (*ODD, *LARGE)
        near = NEAR.get(type(found[key]), ())
        words.append(f"{key}={draw(st.sampled_from(near if near and draw(st.integers(0, 2)) else odd))}")
    return [*options, *words]


@pytest.mark.slow
def test_fuzz_it_runs_or_it_is_one_line(monkeypatch, capsys, tmp_path, compose, teacher):
    seen = []

    @settings(
        max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )  # derandomised: the same examples on every machine
    @given(overrides(compose))
    def holds(words: list[str]) -> None:
        place = tmp_path / str(len(seen))
        place.mkdir()
        distil = [f"method.teacher={teacher}"] if "method=fair_ard" in words else []
        code, _, err = call(monkeypatch, capsys, place, *TINY, *distil, *words, "hydra.run.dir=run")
        seen.append(code)
        if code == 0:
            metrics = json.loads((place / "run" / "metrics.json").read_text())
            assert set(metrics) == {"clean", "pgd20", "cw20"}, words
        else:
            assert err.startswith("error: ") and err.count("\n") == 1 and code in (1, 2), (words, err)
            assert code == 1 or list(place.iterdir()) == [], (words, err)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(place)

    holds()
    assert seen.count(0) > 10 and seen.count(2) > 30, "both happen"
