"""The package from Python: `import fairat_lightning as fl`."""

import importlib
import json
import pkgutil
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from helpers import SMALL
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fairat_lightning as fl
from fairat_lightning.commands import evaluate
from fairat_lightning.data import Indexed

NAMES = ("load_run", "load_data", "benchmark", "compare", "write_report", "train", "method")


class Net(nn.Module):
    """Class by brightness, returned bare, in a dict, a tuple or an object."""

    def __init__(self, shape="bare", bias=0.0):
        super().__init__()
        self.shape, self.bias = shape, bias
        self.layer = nn.Linear(1, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[-20.0], [0.0], [20.0]]))
            self.layer.bias.copy_(torch.tensor([6.0, 0.0, -14.0]))

    def forward(self, x):
        logits = self.layer(x.mean((1, 2, 3))[:, None] + self.bias)
        out = type("Output", (), {"logits": logits})()
        return {"bare": logits, "dict": {"loss": 0, "logits": logits}, "tuple": (logits, x), "object": out, "odd": {"x": logits}}[
            self.shape
        ]


def images(count=30):
    y = torch.arange(count) % 3
    return (y.float() / 2 * 0.8 + 0.1)[:, None, None, None].expand(-1, 1, 4, 4).contiguous(), y


def test_the_import_is_light_and_no_module_can_take_a_name():
    code = "import sys, time; t = time.perf_counter(); import fairat_lightning as fl; s = time.perf_counter() - t; import json;"
    code += "print(json.dumps([s, [m for m in ('torch', 'lightning', 'matplotlib', 'hydra') if m in sys.modules]]))"
    seconds, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert heavy == [] and seconds < 0.3
    for found in pkgutil.walk_packages(fl.__path__, "fairat_lightning."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in NAMES:
        assert callable(getattr(fl, name)) and not isinstance(getattr(fl, name), type(sys)), name
        assert getattr(fl, name).__doc__, name


class Rows:
    """As Hugging Face's data sets answer."""

    features = {"label": type("Names", (), {"names": ["dark", "grey", "bright"]})()}

    def __init__(self):
        self.x, self.y = images()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, k):
        return {"image": self.x[k], "label": int(self.y[k])}


def data_of(kind):
    x, y = images()
    return {
        "tensors": (x, y),
        "bytes": ((x * 255).round().to(torch.uint8), y),
        "arrays": (x.permute(0, 2, 3, 1).numpy(), y.numpy()),
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
        "dataset": TensorDataset(x, y),
        "batches": [(x[:10], y[:10]), (x[10:], y[10:])],
        "rows": Rows(),
    }[kind]


@pytest.mark.parametrize("kind", ["tensors", "bytes", "arrays", "loader", "dataset", "batches", "rows"])
def test_any_images_are_judged_alike(kind):
    found = fl.benchmark(Net(), data_of(kind), eps="8/255")
    assert found.worst["clean"] == 1.0 and set(found.metrics) == {"clean", "fgsm", "pgd20", "cw20"}
    assert found.classes == (["dark", "grey", "bright"] if kind == "rows" else [f"class_{k}" for k in range(3)])


def test_a_result_shows_itself_is_saved_and_reported(tmp_path):
    net = Net().train()
    strong = fl.benchmark(net, images(), eps=0.3, classes=["a", "b", "c"])
    assert net.training and all(p.requires_grad for p in net.parameters()), "the network is left as it was"
    assert strong.worst["pgd20"] < 0.5 < strong.average["clean"]
    assert "worst class" in repr(strong) and "PGD-20" in repr(strong) and "b" in repr(strong)
    low, high = strong.intervals["clean"]["worst"]
    assert low < strong.worst["clean"] <= high
    frame = strong.to_pandas()
    assert frame.loc["worst class", "pgd20"] == strong.worst["pgd20"] and list(frame.index[:3]) == ["a", "b", "c"]
    assert json.dumps(strong.to_dict()) and strong.save(tmp_path / "r") == tmp_path / "r"
    assert strong.save(tmp_path / "r"), "again, as a notebook does"
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "run.json").write_text(json.dumps({"command": "python -m fairat_lightning.evaluate checkpoint=r"}))
    for taken in (tmp_path / "e", tmp_path):
        with pytest.raises(ValueError, match="name a new folder"):
            strong.save(taken)
    again = type(strong).read(tmp_path / "r")
    assert again.metrics == strong.metrics
    fl.write_report({"one": strong, "two": tmp_path / "r"}, tmp_path / "page")
    assert (tmp_path / "page" / "index.html").exists() and "one" in (tmp_path / "page" / "table.md").read_text()


def test_in_a_notebook_too_the_table_is_what_repr_returns(monkeypatch):
    """There rich would show it by itself, and leave nothing for `repr`."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    found = fl.benchmark(Net(), images(), eps=0.01)
    assert "worst class" in repr(found) and "difference" in repr(fl.compare(found, found))


def test_a_benchmark_and_an_evaluation_are_paired_only_on_the_same_images(tmp_path):
    words = ["data=digits", "data.test_size=40"]
    evaluate.main(["checkpoint=pretrained:digits_pgd_at", "data.test_size=40", f"to={tmp_path}"])
    net, data = fl.load_run("pretrained:digits_pgd_at"), fl.load_data(words)
    x, y, first = data.test.pixels[:], data.test.targets, None
    for pixels, same in ((x, True), (x / 255, True), (x.flip(3), False)):
        result = fl.benchmark(net, (pixels, y), eps=0.2, classes=data.classes)
        first = first if pixels is not x else result
        for other in (tmp_path / "evaluation/quick", first):
            found = fl.compare(other, result).to_dict()["pgd20"]["average"]
            assert (found["test"] == "paired") == same, found


def test_two_results_on_the_same_images_are_compared_in_pairs():
    a, b = (fl.benchmark(Net(bias=bias), images(), eps=0.01) for bias in (0.0, 0.25))
    found = fl.compare(a, b)
    assert found.to_dict()["pgd20"]["average"]["difference"] < 0 and found.to_dict()["pgd20"]["average"]["test"] == "paired"
    assert "difference" in repr(found)
    assert fl.compare(a, a).to_dict()["pgd20"]["worst"]["difference"] == 0


@pytest.mark.parametrize(
    "shape, place", [("dict", None), ("tuple", None), ("object", None), ("odd", "x"), ("odd", lambda out: out["x"])]
)
def test_the_logits_are_found_or_said(shape, place, capsys):
    net = Net(shape)
    assert fl.benchmark(net, images(), eps=0.01, logits=place).worst["clean"] == 1.0
    assert ("are used" in capsys.readouterr().out) == (place is None)
    assert isinstance(net(images()[0]), type(Net(shape)(images()[0])) if shape != "object" else object), "the hook is gone"


def test_what_the_network_expects_is_put_in_front_of_it():
    x, y = images()

    class Centred(Net):
        def forward(self, x):
            return super().forward(x * 0.25 + 0.5)

    for word in (([0.5], [0.25]), (0.5, 0.25), [0.5, 0.25]):
        assert fl.benchmark(Centred(), (x, y), eps=0.01, normalisation=word).worst["clean"] == 1.0
    with pytest.raises(ValueError, match="normalisation=mars is unknown"):
        fl.benchmark(Centred(), (x, y), eps=0.01, normalisation="mars")
    assert any("near that of guessing" in note for note in fl.benchmark(Centred(), (x * 0, y), eps=0.01).notes)
    with pytest.raises(ValueError, match="normalisation"):
        fl.benchmark(Net(), ((x - 0.5) / 0.25, y), eps=0.01)


X, Y = images(6)


@pytest.mark.parametrize(
    "data, said",
    [
        ((X * 255, Y), "from 25.5 to 229.5"),
        ((X.log(), Y), "must lie in"),
        ((X * float("nan"), Y), "nan or infinite"),
        ((X.long(), Y), "type torch.int64"),
        ((X, Y.float()), "labels of type torch.float32"),
        ((X, torch.eye(6)[:, :3].long()), "one-hot"),
        ((X, Y + 1), "that fit the data"),
        ((X, Y - 1), "labels from -1"),
        ((X[:, 0], Y), "images of shape (6, 4, 4)"),
        ((X, Y[:4]), "6 images and 4 labels"),
        ([], "holds no image"),
        ([{"picture": X, "label": Y}], "a row has picture, label"),
        (3, "data of type int"),
        ([(X, Y), (X[..., :2], Y)], "different shapes"),
    ],
)
def test_wrong_images_and_labels_are_one_line(data, said):
    with pytest.raises(ValueError, match="^.*" + said.replace("(", r"\(").replace(")", r"\)")) as error:
        fl.benchmark(Net(), data, eps=0.01)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words, said",
    [
        ({"suite": "strong"}, "suite=strong is unknown"),
        ({"eps": "much"}, "eps=much"),
        ({"norm": "l7"}, "norm"),
        ({"classes": ["a"]}, "3 logits"),
        ({"logits": "scores"}, "without 'scores'"),
        ({"overrides": ["devices=2"]}, "has no setting devices=2"),
        ({"overrides": ["suite._target_=builtins.print"]}, "_target_=builtins.print is not allowed"),
        ({"overrides": ["suite._target_=collections.Counter", "allow=[collections.]"]}, "must be a subclass of .*Suite"),
    ],
)
def test_wrong_words_are_one_line(words, said):
    with pytest.raises(ValueError, match=said):
        fl.benchmark(Net(), images(), **{"eps": 0.01, **words})


def test_a_run_from_python_its_network_and_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = fl.train([*SMALL, "trainer.max_epochs=1"])
    assert found.folder.parent == tmp_path / "runs" and found.worst.keys() == {"clean", "pgd20", "cw20"}
    assert fl.train([*SMALL, "trainer.max_epochs=1"]).metrics == found.metrics
    net, data = fl.load_run(found.folder), fl.load_data(found.folder)
    assert net.classes == data.classes and net.eps == pytest.approx(0.1) and net.norm == "linf" and not net.training
    x, y, index = next(iter(data.test_dataloader()))
    assert net(x / 255).shape == (20, 4) and x.dtype == torch.uint8 and len(index) == len(y)
    again = fl.benchmark(net, data, eps=net.eps)
    assert again.metrics["pgd20"]["per_class"] == found.metrics["pgd20"]["per_class"]
    assert fl.load_data(["data=synthetic", "data.image_size=9"]).image_size == 9
    for wrong in (lambda: fl.train(["optim.lr=much"]), lambda: fl.load_run("nowhere"), lambda: fl.load_data(["data=mars"])):
        with pytest.raises(ValueError) as error:
            wrong()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["digits_pgd_at", "cifar10_faal"])
def test_a_network_of_the_package_needs_no_data(name, monkeypatch):
    monkeypatch.setattr("fairat_lightning.data.DataModule.prepare", lambda self: 1 / 0)
    net = fl.load_run(f"pretrained:{name}")
    channels, size = (1, 8) if "digits" in name else (3, 32)
    assert net(torch.rand(2, channels, size, size)).shape == (2, 10)
    assert net.classes[3] == ("3" if "digits" in name else "cat") and net.eps > 0


def test_a_file_of_others_needs_its_network_and_never_a_guess(tmp_path, capsys):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save({"model_state_dict": net.state_dict(), "epoch": 3}, tmp_path / "theirs.pt")
    fresh = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))  # noqa: E731
    with pytest.raises(ValueError, match="give model="):
        fl.load_run(tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match="give normalisation= or data="):
        fl.load_run(tmp_path / "theirs.pt", model=fresh())
    x = torch.rand(3, 1, 8, 8)
    found = fl.load_run(tmp_path / "theirs.pt", model=fresh(), normalisation=[0.5, 0.25])
    assert torch.allclose(found(x), net((x - 0.5) / 0.25)) and found.eps is None
    decided = fl.load_run(tmp_path / "theirs.pt", model=fresh(), data=["data=digits"])
    assert "is used" in capsys.readouterr().out and decided.classes[3] == "3"


@pytest.mark.parametrize("name", ["absld", "fair_ard"])
def test_a_methods_teacher_may_be_a_run(name):
    net = fl.load_run("pretrained:digits_faal")
    module = fl.method(name, net, classes=10, eps=0.2, overrides=["method.teacher=pretrained:digits_pgd_at"])
    x = fl.load_data(["data=digits"]).test.pixels[:8] / 255
    torch.testing.assert_close(module.wanted(x), fl.load_run("pretrained:digits_pgd_at")(x))
    taught = ["method.teacher=pretrained:digits_pgd_at"]
    for given, said in (
        ({"classes": 10}, "set method.teacher=PATH"),
        ({"classes": list("9876543210"), "overrides": taught}, "has the classes 0, 1, 2"),
        (
            {"classes": 10, "overrides": ["method.teacher=net.pt"]},
            "method.teacher=net.pt is no run: load it, and give it as teacher=",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            fl.method(name, net, eps=0.2, **given)


def test_someones_checkpoint_made_fairer_and_compared(tmp_path, monkeypatch):
    """The worked path of the documentation: a robust base, two epochs of FAAL from it, compared class by class."""
    monkeypatch.chdir(tmp_path)
    base = fl.train([*SMALL, "trainer.max_epochs=1"])
    fair = fl.train([*SMALL, "method=faal", f"init_from={base.folder}"])
    found = fl.compare(base, fair)
    assert set(found.to_dict()) == {"pgd20", "cw20", "clean"} and np.isfinite(found.to_dict()["pgd20"]["worst"]["difference"])


X, Y = images(6)


class Odd(Net):
    """What is no classifier, in several ways."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        logits = super().forward(x.detach() if self.kind == "detached" else x)
        noisy = logits + torch.randn_like(logits)
        return {"detached": logits, "random": noisy, "several": (logits.repeat(1, 2), logits)}[self.kind]


@pytest.mark.parametrize(
    "net, given, said",
    [
        (lambda x: x, {}, "net is of type function: give a torch.nn.Module"),
        (Odd("detached"), {}, "no gradient by its images"),
        (Odd("random"), {}, "random in eval mode"),
        (Odd("several"), {}, r"several tensors, \(2, 6\) at 0, \(2, 3\) at 1: set logits= to the index or key of its logits"),
        (Net(), {"classes": ["a", "b", "a"]}, "a occurs twice"),
        (Net(), {"device": "gpu"}, "device=gpu is unknown"),
        (Net(), {"batch_size": 0}, "batch_size=0 must be a whole number"),
        (Net(), {"data": (X[:0], Y[:0])}, "give one image or more"),
        (Net(), {"data": (X, ["a"] * 6)}, "cannot be read: give images and numbers, not text"),
        (Net(), {"data": (torch.rand(6, 8, 8, 4), Y)}, "convert them to RGB"),
        (Net(), {"data": (X + 0.5, Y)}, "must lie in"),
    ],
)
def test_what_cannot_be_judged_is_one_line(net, given, said):
    with pytest.raises(ValueError, match=said) as error:
        fl.benchmark(net, **{"data": (X, Y), "eps": 0.01} | given)
    assert "\n" not in str(error.value)


def test_without_a_gpu_one_cannot_be_asked_for():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="torch finds no CUDA"):
        fl.benchmark(Net(), (X, Y), eps=0.01, device="cuda")


@pytest.mark.parametrize("kind", ["float64", "float16", "double network", "lists", "columns", "a rounding above 1", "classes=3"])
def test_images_networks_and_words_as_people_have_them(kind, capsys):
    expected = fl.benchmark(Net(), (X, Y), eps=0.05)
    net, given, data = Net().double() if kind == "double network" else Net(), {}, (X, Y)
    if kind.startswith("float"):
        data = X.to(getattr(torch, kind)), Y
    if kind == "lists":
        data = list(X.numpy()), Y.tolist()
    if kind == "columns":
        data = {"image": X.numpy(), "label": Y.numpy()}
    if kind == "a rounding above 1":
        data = torch.where(X.max() == X, 1 + 2e-7, X), Y
    if kind == "classes=3":
        given = {"classes": 3}
    found = fl.benchmark(net, data, eps=0.05, **given)
    assert list(found.worst.values()) == list(expected.worst.values())
    fl.benchmark(net, ((X * 255).to(torch.uint8), Y), eps=0.05)
    assert capsys.readouterr().out.count("The images are bytes") == 1


def test_the_logits_among_several_tensors_are_those_of_the_classes():
    found = fl.benchmark(Odd("several"), (X, Y), eps=0.05, classes=["a", "b", "c"])
    assert found.worst == fl.benchmark(Net(), (X, Y), eps=0.05).worst


def test_a_text_is_no_list_of_prefixes_that_are_allowed(tmp_path):
    for wrong in ("mine.", ["mine"], "evil"):
        with pytest.raises(ValueError, match="must be a list of prefixes that end in a dot"):
            fl.load_run("pretrained:digits_faal", allow=wrong)


def test_parts_from_elsewhere_are_refused_from_python_too():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for wrong in (
        lambda: fl.load_data(["data._target_=os.system"]),
        lambda: fl.method("faal", net, classes=3, eps=0.1, overrides=["method._target_=mine.Method"]),
        lambda: fl.train([*SMALL, "callbacks=[mine.Mine]"]),
    ):
        with pytest.raises(ValueError, match="is not allowed"):
            wrong()


def test_what_says_all_of_itself_is_told_nothing():
    for word, value in {"model": Net(), "normalisation": "none", "key": "x", "logits": 1}.items():
        with pytest.raises(ValueError, match=f"^{word}= is only for weights from elsewhere"):
            fl.load_run("pretrained:digits_faal", **{word: value})


def test_a_file_of_others_takes_data_in_memory_and_a_place_of_the_logits(tmp_path, capsys):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.layer = nn.Flatten(), nn.Linear(64, 10)

        def forward(self, x):
            return self.flat(x), self.layer(self.flat(x))

    torch.save(Two().state_dict(), tmp_path / "theirs.pt")
    found = fl.load_run(tmp_path / "theirs.pt", model=Two(), data=fl.load_data(["data=digits"]), normalisation="none")
    assert found(torch.rand(2, 1, 8, 8)).shape == (2, 10) and "those at 1 are used" in capsys.readouterr().out
    said = fl.load_run(tmp_path / "theirs.pt", model=Two(), normalisation="none", logits=1)
    assert said(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_run_from_python_hears_what_the_command_line_hears(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = fl.train([*SMALL, "trainer.max_epochs=1", "hydra.run.dir=base"])
    assert json.loads((base.folder / "run.json").read_text())["command"].startswith("fairat_lightning.train(['data=synthetic'")
    torch.save(fl.load_run(base.folder).model.state_dict(), "plain.pt")
    words = [*SMALL, "trainer.max_epochs=1", "init_from=plain.pt", "model.mean=[0.5]", "model.std=[0.25]"]
    capsys.readouterr()
    fl.train([*words, "hydra.run.dir=mine"])
    assert "is used" not in capsys.readouterr().out.replace("weights: ", "")
    for wrong, said in (("normalisation=none", "not both"), ("overwrite=maybe", "overwrite=maybe")):
        with pytest.raises(ValueError, match=said):
            fl.train([*words, wrong, "hydra.run.dir=other"])
    with pytest.raises(ValueError, match="overrides must be a list"):
        fl.train("method=faal")


@pytest.mark.parametrize(
    "net, given, said",
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 5)),
            {},
            r"returns \(8, 5\) for 8 images: it must return logits \(images, 3\)",
        ),
        (Odd("several"), {"logits": 0}, r"returns \(8, 6\)"),
        (Net("odd"), {}, "without 0: set logits= to the index"),
        (lambda x: x, {}, "give a torch.nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_a_method_is_one_line(net, given, said, tmp_path):
    own = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match=said):
        module = fl.method("pgd_at", net, classes=3, eps=0.1, **given)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **own)
        trainer.fit(module, DataLoader(Indexed(TensorDataset(*images(8))), batch_size=8))


def test_results_that_are_none_are_one_line(tmp_path):
    wrongs = {"a dictionary": [{}, [1, 2]], "a label": [{"": tmp_path}], "a is of type int": [{"a": 3}]}
    wrongs |= {"a has no results": [{"a": [], "b": tmp_path}], "read the same": [{1: tmp_path, "1": tmp_path}]}
    for said, wrong in ((said, wrong) for said, several in wrongs.items() for wrong in several):
        with pytest.raises(ValueError, match=said):
            fl.write_report(wrong, tmp_path / "page")
    with pytest.raises(ValueError, match="a is of type int"):
        fl.compare(3, tmp_path)


def test_the_names_are_listed_for_who_asks():
    assert set(NAMES) <= set(dir(fl))
