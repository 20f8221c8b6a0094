"""An exported network: the same bits without Lightning, a card that says what the records say, and no folder harmed."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fairat_lightning.commands import evaluate as judge
from fairat_lightning.commands.cli import start
from fairat_lightning.commands.export import main
from fairat_lightning.config import classifier
from fairat_lightning.config.build import build_part, network
from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.record import journal
from fairat_lightning.record.fingerprint import fingerprint
from fairat_lightning.standalone.folder import CARD, CODE, FILES, WEIGHTS

# The words of a tiny version of every architecture.
NETWORKS = {
    "preactresnet18": "model=preactresnet18 model.width=4",
    "preactresnet_tiny": "model=preactresnet_tiny model.width=3 model.mean=[0.4] model.std=[0.2]",
    "resnet18": "model=resnet18 model.width=4",
    "wrn28_10": "model=wrn28_10 model.width=1",
    "wrn34_10": "model=wrn34_10 model.width=1",
    "channels_last": "model=preactresnet18 model.width=4 model.channels_last=true",
    "colour": "data=folder data.root={tmp}/photos data.image_size=16 model=preactresnet_tiny model.std=[0.2,0.3,0.4]",
    "timm_resnet": "model=timm model.name=resnet18",
    "timm_deep_stem": "model=timm model.name=resnet26d model.channels_last=true",
    "timm_large": "model=timm model.name=resnet18 data.image_size=72",
    "timm_vit": "model=timm model.name=vit_tiny_patch16_224 data.image_size=32",
}
SOME = ("preactresnet18", "colour", "timm_resnet", "timm_large")
ODD = ["_odd_ | 'one\"", "a*", "two"]
# Loads every folder given, where nothing but torch, safetensors and timm can be imported.
STRANGER = """
import importlib.util, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fairat_lightning", "lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
import torch

torch.set_num_threads(1)
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("model", f"{folder}/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.load()
    assert not any(m.training for m in net.modules())
    with torch.no_grad():
        torch.save({"logits": net(torch.load(f"{folder}.images")), "classes": module.CLASSES}, f"{folder}.logits")
"""
OWN = """
import torch
from torch import nn

class MyNet(nn.Module):
    def __init__(self, num_classes, hidden=5, trick="none"):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, num_classes))
        self.trick = trick
        self.register_buffer("secret", torch.randn(num_classes), persistent=False)

    def forward(self, x):
        logits = self.body(x)
        if self.trick == "hidden":
            return logits + self.secret
        if self.trick == "random":
            return logits + torch.randn_like(logits)
        return logits[:, 1:] if self.trick == "short" else logits
"""


@pytest.fixture
def export(monkeypatch, capsys, tmp_path):
    """The command in this process, in a directory of its own: exit code, stdout, stderr."""

    def export(*words: str) -> tuple[int, str, str]:
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setattr(sys, "argv", ["export", *words])
        capsys.readouterr()
        code = 0
        try:
            start(main, "help")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return export


def weights(path: Path, *words: str) -> torch.nn.Module:
    """A network with weights and statistics like no other's, whose state dict is saved at `path`."""
    path.touch()
    cfg = compose_classifier("classifier", [f"checkpoint={path}", *words])
    data = build_part(cfg, "data")
    data.prepare()
    net = network(cfg, data).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # some begin at 0
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    torch.save(net.state_dict(), path)
    return net


def photos(root: Path) -> None:
    """Coloured images of classes with odd names."""
    for split in ("train", "test"):
        for name in ODD:
            (root / split / name).mkdir(parents=True)
            for k in range(3):
                Image.effect_noise((16, 16), 50 + k).convert("RGB").save(root / split / name / f"{k}.png")


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def strangers(*folders: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STRANGER, *map(str, folders)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", [SOME, pytest.param(tuple(NETWORKS), marks=pytest.mark.slow)], ids=len)
def test_every_architecture_gives_the_same_bits_without_lightning(export, tmp_path, names):
    pytest.importorskip("timm")
    photos(tmp_path / "photos")
    expected = {}
    for name in names:
        line = NETWORKS[name]
        words = line.replace("{tmp}", str(tmp_path)).split()
        words = words if "data=" in line.split()[0] else ["data=synthetic", *words]
        net = weights(tmp_path / f"{name}.pt", *words)
        code, out, err = export(f"checkpoint={tmp_path / name}.pt", f"to={tmp_path / name}", *words)
        assert code == 0, f"{name}: {err}"
        assert out.count("\n") <= 4 and "bit for bit" in out
        size = next((int(word.split("=")[1]) for word in words if word.startswith("data.image_size")), 8)
        images = torch.rand(6, len(net.mean), size, size)
        torch.save(images, tmp_path / f"{name}.images")
        with torch.no_grad():
            expected[name] = net(images)
        state = load_file(tmp_path / name / WEIGHTS)
        assert {k: bits(v) for k, v in state.items()} == {k: bits(v) for k, v in net.state_dict().items()}
        assert {"mean", "std"} <= set(state)
    strangers(*(tmp_path / name for name in names))
    for name, logits in expected.items():
        found = torch.load(tmp_path / f"{name}.logits")
        assert bits(found["logits"]) == bits(logits), name
        assert found["classes"] == (ODD if name == "colour" else [f"class_{k}" for k in range(4)]) and logits.std() > 0
    assert r"""\_odd\_ \| 'one", a\*, two""" in (tmp_path / "colour" / CARD).read_text()
    check_code(tmp_path, names)


def check_code(folder: Path, names: tuple[str, ...]) -> None:
    """Only the code that is needed, and no import of ours."""
    for name in names:
        tree = ast.parse((folder / name / CODE).read_text())
        imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        packages = {str(module).split(".")[0] for module in imported} - sys.stdlib_module_names
        assert packages == {"torch", "safetensors"} | ({"timm"} if name.startswith("timm") else set()), name
    defined = lambda name: re.findall(r"^(?:class|def) (\w+)", (folder / name / CODE).read_text(), re.M)  # noqa: E731
    residual = ["conv3x3", "PreActBlock", "_Residual", "PreActResNet"]
    assert sorted(defined("preactresnet18")) == sorted([*residual, "Normalized", "_numbers", "preactresnet18", "load"])
    assert "_keep_small_images_whole" in defined("timm_resnet") and "_keep_small_images_whole" not in defined("timm_large")


def test_a_run_with_ema_and_its_card(export, launch, tmp_path):
    run, metrics = launch("method=faal", "averaging=ema")
    code, out, err = export(f"checkpoint={run}", "to=deep/er/out")
    assert code == 0 and "3 attacks" in out, err
    folder = tmp_path / "here" / "deep" / "er" / "out"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert [p.name for p in folder.parent.iterdir()] == ["out"]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert {f"net.{k}": bits(v) for k, v in load_file(folder / WEIGHTS).items()} == {
        k: bits(v) for k, v in best.items() if k.startswith("net.")
    }
    text = (folder / CARD).read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "pytorch" and "license" not in front
    assert {"adversarial-robustness", "robust-fairness", "image-classification"} <= set(front["tags"])
    assert yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0]) == yaml.safe_load((run / "config.yaml").read_text())
    rows = {line.split("|")[1].strip(): [cell.strip(" *") for cell in line.split("|")[2:-1]] for line in table(text)}
    assert rows["class"] == ["clean", "PGD-20", "CW-20"]
    order = [metrics[key] for key in ("clean", "pgd20", "cw20")]
    for name in metrics["clean"]["per_class"]:
        assert rows[name] == [f"{100 * m['per_class'][name]:.1f}" for m in order]
    assert rows["**average**"] == [f"{100 * m['average']:.1f}" for m in order]
    assert rows["**worst class**"] == [f"{100 * m['worst']:.1f}" for m in order]
    ends = [m["interval"]["average"] for m in order]
    assert rows["interval"] == [f"{100 * a:.1f} to {100 * b:.1f}" for a, b in ends]
    record = json.loads((run / "run.json").read_text())
    for said in (
        record["command"],
        record["started"],
        "linf, eps 0.1",
        "= 0.025",
        "FAAL, AT, EMA",
        "torch " + record["versions"]["torch"],
    ):
        assert said in text, said
    assert "never on test" in text and "upper bound" in text and "failed" not in text


def table(text: str) -> list[str]:
    """The rows of the card's first table; of the two intervals the average's."""
    rows: list[str] = []
    for line in text.split("## Accuracy")[1].splitlines():
        if line.startswith("| interval") and any(row.startswith("| interval") for row in rows):
            continue
        if line.startswith("| "):
            rows.append(line)
        elif rows and not line.startswith("|"):
            break
    return rows


def test_the_same_export_has_the_same_bytes(export, launch, tmp_path):
    run, _ = launch()
    for name in ("a", "b"):
        assert export(f"checkpoint={run}", f"to={tmp_path / name}")[0] == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_evaluations_of_these_weights_are_shown_and_failed_checks_come_first(export, launch, tmp_path):
    run, metrics = launch()
    cfg = compose_classifier("classifier", [f"checkpoint={run}"])
    mine = fingerprint(classifier.load(cfg).net.state_dict())
    strong = {**metrics["pgd20"], "average": 0.1234, "worst": 0.0321}
    facts = {
        "threat": {"norm": "linf", "eps": 8 / 255},
        "titles": {"clean": "clean", "apgd_t": "after APGD-T", "fgsm": "FGSM"},
        "headline": ["clean", "apgd_t"],
        "notes": ["Seven steps | only."],
        "checks": [
            {"name": "more steps do not help", "passed": False, "detail": "PGD-100 gains 9.1"},
            {"name": "noise is weaker", "passed": True, "detail": "fine"},
            {"name": "a black box is not stronger", "passed": None, "detail": "no library"},
        ],
    }
    for name, owner in (("standard", mine), ("stale", "0123456789abcdef")):
        place = run / "evaluation" / name
        place.mkdir(parents=True)
        summaries = {"clean": metrics["clean"], "apgd_t": strong, "fgsm": metrics["cw20"]}
        (place / "metrics.json").write_text(json.dumps(summaries))
        (place / "run.json").write_text(json.dumps(facts))
        journal.write(place / "samples.jsonl", {"weights": owner}, [])
    (run / "evaluation" / "begun").mkdir()
    assert export(f"checkpoint={run}", "to=out")[0] == 0
    text = (tmp_path / "here" / "out" / CARD).read_text()
    assert table(text)[0] == "| class | clean | PGD-20 | CW-20 | after APGD-T |"
    assert "12.3" in text and "3.2" in text and "eps 8/255" in text and r"Seven steps \| only." in text
    assert text.index("1 of 3 sanity checks failed") < text.index("## Load it")
    assert "**FAILED**" in text and "not run" in text and "Also measured" in text and "FGSM" in text
    assert "The evaluation stale is of other weights" in text


def test_figures_of_training_images_are_not_shown(export, launch, tmp_path):
    run, metrics = launch("data.train_size=200")
    judge.main([f"checkpoint={run}", "split=train"])
    assert export(f"checkpoint={run}", "to=out")[0] == 0
    text = (tmp_path / "here" / "out" / CARD).read_text()
    assert "The evaluation quick-train is of train images, not test images, and is not shown." in text
    assert table(text)[0] == "| class | clean | PGD-20 | CW-20 |" and f"{100 * metrics['pgd20']['average']:.1f}" in text


def test_figures_of_another_data_set_are_not_shown(export, launch, tmp_path):
    run, _ = launch()
    judge.main([f"checkpoint={run}", "suite=quick", "name=again"])
    config = yaml.safe_load((run / "evaluation" / "again" / "config.yaml").read_text())
    config["data"]["load"]["_target_"] = "fairat_lightning.data.sets.svhn"
    (run / "evaluation" / "again" / "config.yaml").write_text(yaml.safe_dump(config))
    assert export(f"checkpoint={run}", "to=out")[0] == 0
    text = (tmp_path / "here" / "out" / CARD).read_text()
    assert "The evaluation again is of another data set than the run's test, and is not shown." in text
    assert table(text)[0] == "| class | clean | PGD-20 | CW-20 |"


def test_figures_of_other_weights_are_not_shown(export, launch, tmp_path):
    run, _ = launch()
    assert export(f"checkpoint={run}/checkpoints/last.ckpt", "to=out")[0] == 0
    text = (tmp_path / "here" / "out" / CARD).read_text()
    assert "last.ckpt" in text and "never evaluated" in text and "PGD-20" not in text and "never on test" not in text


def test_a_bare_file_was_never_evaluated(export, tmp_path):
    weights(tmp_path / "w.pt", "data=synthetic", "model.width=4")
    assert export(f"checkpoint={tmp_path}/w.pt", "to=out", "data=synthetic", "model.width=4")[0] == 0
    text = (tmp_path / "here" / "out" / CARD).read_text()
    assert "never evaluated" in text and "width: 4" in text and "## Training" not in text and str(tmp_path) not in text


# words -> what the one line says; `{tmp}` is a fresh directory with w.pt, of the tiny network at width 4
WRONG = {
    "checkpoint={tmp}/w.pt": "to=FOLDER",
    "to=out": "checkpoint=PATH",
    "checkpoint={tmp}/w.pt to=5": "to=5",
    "checkpoint={tmp}/w.pt to=out overwrite=perhaps": "overwrite=perhaps",
    "checkpoint={tmp}/missing.pt to=a/b/out": "missing.pt",
    "checkpoint={tmp}/w.pt to=out model.width=8": "width",
    "checkpoint={tmp}/w.pt to=out wieght=8": "wieght",
    "checkpoint={tmp}/w.pt to=out --fast": "--fast",
    "checkpoint={tmp}/w.pt to=/dev/null/out": "/dev/null/out",
    "checkpoint={tmp}/w.pt to={tmp}/w.pt": "is a file",
    "checkpoint={tmp}/w.pt to=.": "working directory",
    "checkpoint={tmp}/w.pt to={tmp}": "working directory",
    "checkpoint={tmp}/w.pt to=out model._target_=os.system": "os.system",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(export, tmp_path, line):
    weights(tmp_path / "w.pt", "data=synthetic", "model.width=4")
    words = ["data=synthetic", "model.width=4", *line.replace("{tmp}", str(tmp_path)).split()]
    code, out, err = export(*{word.split("=")[0]: word for word in words}.values())
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and WRONG[line] in err, err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["here", "w.pt"]


def test_only_an_earlier_export_is_ever_replaced(export, tmp_path):
    words = ("data=synthetic", "model.width=4")
    weights(tmp_path / "w.pt", *words)
    words = (f"checkpoint={tmp_path}/w.pt", *words)
    out = tmp_path / "here" / "out"
    out.mkdir(parents=True)
    assert export(*words, "to=out")[0] == 0  # empty: nobody's
    (out / CARD).write_text("mine")
    code, _, err = export(*words, "to=out")
    assert code == 2 and "overwrite=true" in err and (out / CARD).read_text() == "mine"
    (out / "__pycache__").mkdir()
    assert export(*words, "to=out", "overwrite=true")[0] == 0
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES) and (out / CARD).read_text() != "mine"
    for names in (["thesis.tex"], [WEIGHTS], [CODE, CARD], [WEIGHTS, CODE, ".git"]):
        foreign = tmp_path / "here" / "foreign"
        foreign.mkdir()
        for name in names:
            (foreign / name).write_text("precious")
        for overwrite in ("true", "false"):
            code, _, err = export(*words, "to=foreign", f"overwrite={overwrite}")
            assert code == 2 and err.count("\n") == 1, names
        assert {p.name: p.read_text() for p in foreign.iterdir()} == dict.fromkeys(names, "precious")
        for path in foreign.iterdir():
            path.unlink()
        foreign.rmdir()
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["out"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The words for a class of the user's own, in a package beside, with weights for it."""
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mypackage", raising=False)
    import mypackage

    net = mypackage.MyNet(4)
    torch.save(net.state_dict(), tmp_path / "own.pt")
    words = (
        f"checkpoint={tmp_path}/own.pt to=out data=synthetic model._target_=mypackage.MyNet allow=[mypackage.] model.mean=[0.5]"
    )
    yield net, words.split()
    sys.modules.pop("mypackage", None)


def test_a_class_of_ones_own_is_imported(export, own, tmp_path, monkeypatch):
    net, words = own
    code, _, err = export(*words)
    assert code == 0, err
    folder = tmp_path / "here" / "out"
    text = (folder / CARD).read_text()
    assert "imports it" in text and "mypackage.MyNet" in text and "safetensors and mypackage" in text
    assert "import mypackage\n" in (folder / CODE).read_text() and "class MyNet" not in (folder / CODE).read_text()
    images = torch.rand(5, 1, 8, 8)
    torch.save(images, f"{folder}.images")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    strangers(folder)
    with torch.no_grad():
        assert bits(torch.load(f"{folder}.logits")["logits"]) == bits(net(images - 0.5))


TRICKS = {"hidden": "its logits differ", "random": "random in eval mode", "short": "(2, 3)"}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_cannot_be_proven_is_not_written(export, own, tmp_path, trick):
    _, words = own
    assert export(*words)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "here" / "out").iterdir()}
    code, out, err = export(*words, f"model.trick={trick}", "overwrite=true")
    assert code == 2 and err.count("\n") == 1 and TRICKS[trick] in err and "proven" not in out
    assert {p.name: p.read_bytes() for p in (tmp_path / "here" / "out").iterdir()} == before
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["out"]


def test_help_does_not_wait_for_torch():
    code = "import sys, fairat_lightning.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@pytest.mark.parametrize(
    "before,after",
    [
        ("root: /home/me/data/cifar", "root: .../cifar"),
        ("data.root=/home/me/cifar attack.eps=8/255", "data.root=.../cifar attack.eps=8/255"),
        ("init_from=runs/base ~/x/y.pt", "init_from=runs/base .../y.pt"),
        ("_target_: fairat_lightning.models.resnet18", "_target_: fairat_lightning.models.resnet18"),
    ],
)
def test_the_card_keeps_no_path_of_the_author(before, after):
    from fairat_lightning.standalone.model_card import anonymous

    assert anonymous(before) == after
