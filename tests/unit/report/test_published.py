"""Ours beside the published figures."""

import json
from pathlib import Path

import pytest
import yaml

from fairat_lightning.report import Group, read_run, report_of
from fairat_lightning.report import published as beside
from fairat_lightning.report.protocol import reasons
from fairat_lightning.report.published import FIGURES, reference


def sources():
    return sorted(FIGURES.glob("*.yaml"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_published_figures_are_percents_with_a_source(path):
    found = yaml.safe_load(path.read_text())
    assert found["cite"] and found["source"] and found["kind"] in ("paper", "log", "readme", "secondary")
    assert "PUBLISHED, not ours" in path.read_text()
    for key, row in found["rows"].items():
        assert set(row) <= {"label", "protocol", "note", "gain", *beside.ATTACKS}, key
        assert set(row) & {"gain", *beside.ATTACKS}, key
        for attack in beside.ATTACKS:
            assert all(0 <= value <= 100 for value in row.get(attack, {}).values())
        protocol = {**found.get("protocol", {}), **row.get("protocol", {})}
        known = {"data", "model", "epochs", "base", "eps", "steps", "schedule", "selection", "test_images", "seeds"}
        assert set(protocol) <= known, key
        assert protocol.get("selection", "best") in ("test", "validation", "last", "best")


def folder_with(at: Path, seed: int, worst: float, average: float = 0.5, *, epochs: int = 2) -> Path:
    """A finished run's record with these AutoAttack figures, of 10 classes of 100 images."""
    at.mkdir(parents=True)
    per_class = {f"c{k}": worst if k == 0 else (10 * average - worst) / 9 for k in range(10)}
    summary = {
        "average": average,
        "worst": worst,
        "worst_class": "c0",
        "per_class": per_class,
        "counts": dict.fromkeys(per_class, 100),
    }
    (at / "metrics.json").write_text(json.dumps(dict.fromkeys(("clean", "pgd20", "autoattack"), summary)))
    (at / "run.json").write_text(json.dumps({"seed": seed}))
    made = {
        "model": {"_target_": "fairat_lightning.models.preactresnet18", "width": 64},
        "trainer": {"max_epochs": epochs},
        "attack": {"eps": "8/255", "norm": "linf", "steps": 10},
        "data": {"train_size": None},
    }
    (at / "config.yaml").write_text(yaml.safe_dump(made))
    return at


def test_the_difference_is_ours_less_theirs_and_noise_is_marked(tmp_path):
    runs = [read_run(folder_with(tmp_path / str(seed), seed, worst)) for seed, worst in enumerate((0.30, 0.31, 0.32))]
    report = report_of([Group("FAAL", runs)])
    (line,) = beside.beside(report, {"FAAL": ["faal.faal_at_from_pgd"]})
    head, ours, theirs, difference = beside.table([line])
    found = reasons(line.group, line.reference.protocol)
    assert head == ["", "AutoAttack average", "AutoAttack worst"]
    assert ours == ["FAAL", "50.0 ± 0.0", "31.0 ± 1.0"]
    assert theirs[1:] == ["45.5", "31.1"] and "authors' logs" in theirs[0]
    assert difference == ["difference", "+4.5", "−0.1 ≈"]  # 31.1 lies within 31.0 ± 2.5, 45.5 outside of 50.0 ± 0.0
    assert not any("epochs" in reason or "model" in reason or "PreAct" in reason for reason in found)
    assert "AutoAttack on 1,000 test images" in found and "epoch chosen on validation, published on test images" in found


def test_what_differs_is_read_from_both_protocols(tmp_path):
    group = Group("TRADES", [read_run(folder_with(tmp_path / "a", 0, 0.2, epochs=7))])
    (line,) = beside.beside(report_of([group]), {"TRADES": ["dafa.trades"]})
    assert reasons(line.group, line.reference.protocol)[:3] == [
        "PreAct ResNet-18, published ResNet-18",
        "7 epochs, published 110 epochs",
        "training eps 0.03137, published training eps 0.031",
    ]


def test_what_a_fine_tune_of_the_night_does_otherwise_is_said_also_where_its_folder_was_moved(tmp_path):
    for name in ("base", "faal"):
        config = yaml.safe_load((folder_with(tmp_path / name, 0, 0.2) / "config.yaml").read_text())
        config["optim"] = {"_target_": "fairat_lightning.optim.onecycle", "lr": 0.02}
        config["attack"]["steps"], config["init_from"] = 3, None if name == "base" else "no/longer/here/base"
        config["trainer"]["max_epochs"] = 12 if name == "base" else 2
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    (line,) = beside.beside(report_of([Group("FAAL", [read_run(tmp_path / "faal")])]), {"FAAL": ["faal.faal_at_from_pgd"]})
    found = reasons(line.group, line.reference.protocol)
    assert found[:3] == [
        "trained against 3 steps, published 10",
        "one cycle of learning rates up to 0.02, published 0.01 in the first epoch and 0.001 in the second",
        "fine-tuned from our own base of 12 epochs of one cycle",
    ]


@pytest.mark.parametrize(
    "select, published, said", [("last", "test", "as the last, published on test images"), ("last", "last", "")]
)
def test_how_the_epoch_was_chosen_is_compared(tmp_path, select, published, said):
    folder = folder_with(tmp_path / "a", 0, 0.2)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"select": select}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = [reason for reason in reasons(Group("A", [read_run(folder)]), {"selection": published}) if reason.startswith("epoch")]
    assert found == ([f"epoch {said}"] if said else [])


def test_what_differs_everywhere_is_said_once(tmp_path):
    group = Group("TRADES", [read_run(folder_with(tmp_path / "a", 0, 0.2, epochs=7))])
    first, *each = beside.explained(beside.beside(report_of([group]), {"TRADES": ["dafa.trades", "cfa.trades"]}))
    assert first == "Everywhere: PGD-20 on 1,000 test images; AutoAttack on 1,000 test images."
    assert [line.partition(":")[0] for line in each] == [
        "TRADES and TRADES (DAFA, ICLR 2024)",
        "TRADES and TRADES (CFA, CVPR 2023)",
    ]
    assert "7 epochs, published 110 epochs" in each[0] and "seeds: 1, published 5" in each[1]


def test_a_published_gain_is_set_beside_ours(tmp_path):
    base = Group("PGD-AT", [read_run(folder_with(tmp_path / "a", 0, 0.2))])
    fairat = Group("FairAT", [read_run(folder_with(tmp_path / "b", 0, 0.26, 0.51))])
    report = report_of([base, fairat])
    report.controls = {"FairAT": ["PGD-AT"]}
    (line,) = beside.beside(report, {"FairAT": ["fairat.fairat"]})
    assert beside.table([line])[1:] == [
        ["FairAT", "1.0", "6.0"],
        ["published: FairAT, FCS 2025, second-hand", "2.1", "4.5"],
        ["difference", "−1.1", "+1.5"],
    ]


def test_an_unknown_published_row_is_an_error():
    with pytest.raises(ValueError, match="no published figures called faal.nothing"):
        reference("faal.nothing")
