"""Reproduce a table: train every recipe, bases first, judge each class by class, and set ours beside the published figures.

  python -m fairat_lightning.reproduce table=faal data.root=FOLDER                   on two CPU cores, on a part of CIFAR-10
  python -m fairat_lightning.reproduce table=faal budget=night 'seeds=[0,1]'         all of CIFAR-10, a night of one core a seed
  python -m fairat_lightning.reproduce table=fairat budget=hour trainer=gpu          short schedules, an hour of a modern GPU
  python -m fairat_lightning.reproduce table=leaderboard budget=full 'rows=[strong_floor]' 'seeds=[0,1,2]'

Tables: faal, faal100 (CIFAR-100), fairat, leaderboard. Budgets: smoke (the default), night, hour, full (the papers' schedules,
all test images). Others: seeds=[0]  rows=[NAME,...] (with what they start from)  runs=FOLDER  to=FOLDER. Any other word goes to
every training: model.width=32.

Runs go to runs/reproduce/<table>-<budget>/<row>-s<seed>, or below runs=FOLDER, the report to report/ beside them; with
model.width=32 to <table>-<budget>-width32. What is done is skipped and what was stopped goes on, so the same command can be
given again and again; with seeds or rows added it does the rest. Several commands may share one folder: each row is done once.
All rows of a seed are attacked on the same images, which are chosen when the last of them is trained; where a row that is added
later has other weakest classes, all are judged again.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("reproduce", __doc__)
