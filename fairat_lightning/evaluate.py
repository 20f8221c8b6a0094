"""Evaluate a classifier class by class.

  python -m fairat_lightning.evaluate checkpoint=RUN                     clean, FGSM, PGD-20 and CW-20 of a run's best weights
  python -m fairat_lightning.evaluate checkpoint=RUN suite=standard      stronger attacks, and checks for false robustness
  python -m fairat_lightning.evaluate checkpoint=RUN suite=autoattack samples_per_class=100
  python -m fairat_lightning.evaluate checkpoint=RUN suite=apgd suite.targets=3          the first half of AutoAttack
  python -m fairat_lightning.evaluate checkpoint=RUN suite=sweep         robust accuracy against eps
  python -m fairat_lightning.evaluate checkpoint=RUN suite=corruptions suite.root=CIFAR-10-C
  python -m fairat_lightning.evaluate checkpoint=pretrained:digits_faal  a network that comes with this package
  python -m fairat_lightning.evaluate checkpoint=weights.pt model=timm model.name=resnet18 data=cifar10
  python -m fairat_lightning.evaluate checkpoint=weights.pt model._target_=mypackage.MyNet allow=[mypackage.] data=cifar10

For weights from elsewhere: set key=model_ema if the file holds several sets of weights, and
normalisation=none|cifar10|imagenet|[MEAN,STD] if the file does not say it. Without this setting, the normalisation with the
highest clean accuracy on validation images is used, and printed.

Any setting of a training run's model, data and attack groups can be added: attack=l2_pgd10, attack.eps=4/255, data.root=FOLDER.
Other settings: classes=[cat,dog]  samples_per_class=100  in_full=[cat] (all images of these classes, or samples_in_full=450)
  split=test|val|train  batch_size=250  device=cuda  devices=2 (processes, or GPUs)  name=NAME  to=FOLDER  overwrite=true  seed=0

The results are written to RUN/evaluation/<name>/, where <name> is the suite if name= is not set. Those of a file that does not
belong to a run are written below runs/audit-<file>, and those of pretrained:digits_faal below runs/audit-digits_faal_s0, with
the seed. A name that does not exist lists the names that do. After an interruption the same command continues the evaluation.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("evaluate", __doc__)
