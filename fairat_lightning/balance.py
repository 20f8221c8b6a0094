"""Balance the last layer of a trained classifier, by the validation split (`head.py` says how and why).

    python -m fairat_lightning.balance checkpoint=RUN
    python -m fairat_lightning.balance checkpoint=weights.pt model=resnet18 data=cifar10 to=balanced.pt

A run's balanced weights go to RUN/checkpoints/balanced.ckpt; any other classifier needs model=, data= and to=FILE, a state dict.
checkpoint=pretrained:NAME, a network that comes with this package (a NAME that does not exist lists all), needs to=FILE alone.
Judge the result with fairat_lightning.evaluate checkpoint=FILE. "Validation" is our split of the training set: another's network
has perhaps been trained on it. key= and normalisation= are as for fairat_lightning.evaluate.
Values: select=sum|worst|average, head.strengths=[0.5,1.0], head.strength=1.0 (that one, whatever validation says), to=FILE,
overwrite=true.
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("balance", __doc__)
