"""Any value for any key of the composed configuration: it runs, or it is one line."""

import json
import shutil
from collections.abc import Callable

import pytest
from helpers import DISTIL, METHODS, SMALL, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.config.compose import CONF

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
GROUPS = {
    group: sorted(p.stem for p in (CONF / group).glob("*.yaml") if p.stem != "custom")
    for group in ("objective", "awp", "averaging")
} | {
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
        distil = [f"method.teacher={teacher}"] if {f"method={name}" for name in DISTIL} & set(words) else []
        distil += [f"init_from={teacher}"] if "method=decosam" in words else []
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
