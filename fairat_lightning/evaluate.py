"""Judge a classifier class by class.

  python -m fairat_lightning.evaluate checkpoint=RUN                     clean, FGSM, PGD-20 and CW-20 of a run's best weights
  python -m fairat_lightning.evaluate checkpoint=RUN suite=standard      stronger attacks, and checks for false robustness
  python -m fairat_lightning.evaluate checkpoint=RUN suite=autoattack samples_per_class=100
  python -m fairat_lightning.evaluate checkpoint=RUN suite=apgd suite.targets=3          the first half of AutoAttack
  python -m fairat_lightning.evaluate checkpoint=RUN suite=sweep         robust accuracy against eps
  python -m fairat_lightning.evaluate checkpoint=RUN suite=corruptions suite.root=CIFAR-10-C
  python -m fairat_lightning.evaluate checkpoint=pretrained:digits_faal  a network that comes with this package
  python -m fairat_lightning.evaluate checkpoint=weights.pt model=timm model.name=resnet18 data=cifar10
  python -m fairat_lightning.evaluate checkpoint=weights.pt model._target_=mypackage.MyNet allow=[mypackage.] data=cifar10

A file of others: key=model_ema where it holds several sets of weights; normalisation=none|cifar10|imagenet|[MEAN,STD] where it
does not say it (without the word the clean accuracy on validation images decides, and is printed).

Any word of a training run's model, data and attack groups can follow: attack=l2_pgd10, attack.eps=4/255, data.root=FOLDER.
Others: classes=[cat,dog]  samples_per_class=100  in_full=[cat] (all images of these, or samples_in_full=450)
  split=test|val|train  batch_size=250  device=cuda  name=NAME  to=FOLDER  overwrite=true  seed=0

Results go to RUN/evaluation/<name>/, where <name> is the suite unless name= says otherwise; for a file that belongs to no run,
below runs/audit-<file>, and for pretrained:NAME below runs/audit-NAME; a NAME that does not exist lists those that do.
The same command goes on where it was stopped.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("evaluate", __doc__)
