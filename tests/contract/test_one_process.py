"""Nothing of one run is left for the next: a second run in a process gives the bits of one in a process of its own."""

import torch
from helpers import SMALL, network_weights, start


def test_the_second_run_of_a_process_has_the_bits_of_a_fresh_one(launch, tmp_path):
    words = ["method=fairat", "method.augmentation=cutout", "averaging=ema", "awp=awp"]
    launch("method=floor", "method.augmentation=cutout", "head=balanced", "optim=onecycle", "seed=5", folder="before")
    second, metrics = launch(*words, folder="second")
    done = start(tmp_path, *SMALL, *words, "hydra.run.dir=fresh")
    assert done.returncode == 0, done.stderr
    fresh = tmp_path / "fresh"
    a, b = network_weights(second), network_weights(fresh)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert (second / "metrics.json").read_text() == (fresh / "metrics.json").read_text()
    assert (second / "samples.jsonl").read_text().splitlines()[1:] == (fresh / "samples.jsonl").read_text().splitlines()[1:]
