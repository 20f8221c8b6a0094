"""Reproduce a table: train every recipe, evaluate each class by class, and show the figures beside the published ones.

  python -m fairat_lightning.reproduce table=faal data.root=FOLDER                 a rehearsal on a part of CIFAR-10, in minutes
  python -m fairat_lightning.reproduce table=faal budget=night data.root=FOLDER    all of CIFAR-10, a night of one core a seed
  python -m fairat_lightning.reproduce table=fairat budget=hour trainer=gpu data.root=FOLDER     an hour of a modern GPU
  python -m fairat_lightning.reproduce table=leaderboard budget=full 'rows=[strong_floor]' 'seeds=[0,1,2]'

Tables: faal, faal100 (CIFAR-100), fairat, leaderboard. Budgets: smoke (the default), night, hour, full (the papers' schedules,
all test images). Other settings: seeds=[0]  rows=[NAME,...] (and what they start from and are first compared with; rows=[]
writes the report of what is finished so far)  runs=FOLDER  to=FOLDER. Any further setting, such as model.width=32, applies
to every training.

Runs are written to runs/reproduce/<table>-<budget>/<row>-s<seed>, or below runs=FOLDER, and the report to report/ beside them;
with model.width=32 to <table>-<budget>-width32. The same command may be given again: it skips what is finished, continues what
was stopped, and trains seeds or rows that were added. Several commands may share one folder: each row is trained once.
All rows of a seed are attacked on the same images, which are chosen when the last of them is trained. If a row that is added
later has other weakest classes, all rows are evaluated again.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("reproduce", __doc__)
