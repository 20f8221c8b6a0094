"""Search for hyper-parameters on the validation split, with Optuna.

  python -m fairat_lightning.search method=faal 'method.radius=interval(0.05,1)' trials=20
  python -m fairat_lightning.search method=trades 'optim.lr=tag(log,interval(0.01,0.3))' objective.beta=3,6,9 'seeds=[0,1,2]'
  python -m fairat_lightning.search ... study=radius storage=postgresql://user@host/db      as many workers as you start

Write what varies as in a Hydra sweep: interval(a,b), also in tag(log,...) or int(...), range(a,b,step), choice(a,b) or a,b.
Every other argument is a setting of a training run. A trial trains every seed, one after the other, and its value is the mean
over seeds of the best `select` score on validation; nothing is chosen on test images. A trial whose worst class, on validation,
is behind the median of the other trials at the same epoch is pruned.

Other settings: trials=20  seeds=[0]  study=search  storage=sqlite:///runs/search.db  prune=true  heartbeat=60 (seconds)

The study is kept in the storage: after an interruption the same command continues it, also in several processes at once. A trial
whose process died is tried again, and its runs continue from their checkpoints.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("search", __doc__)
