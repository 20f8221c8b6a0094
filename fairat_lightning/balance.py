"""Balance the last layer of a trained classifier, by the validation split (`head.py` explains how and why).

    python -m fairat_lightning.balance checkpoint=RUN
    python -m fairat_lightning.balance checkpoint=weights.pt model=resnet18 data=cifar10 to=balanced.pt

A run's balanced weights are written to RUN/checkpoints/balanced.ckpt. Any other classifier needs model=, data= and to=FILE, where
a state dict is written. checkpoint=pretrained:NAME, a network that comes with this package, needs only to=FILE; a NAME that does
not exist lists the names that do. Evaluate the result with `python -m fairat_lightning.evaluate checkpoint=FILE`. The validation
images are our split of the training set: a network from elsewhere may have been trained on them. key= and normalisation= are the
same as for fairat_lightning.evaluate.
Other settings: select=sum|worst|average, head.strengths=[0.5,1.0] (to choose from on validation), head.strength=1.0 (this one,
without choosing), to=FILE, overwrite=true.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("balance", __doc__)
