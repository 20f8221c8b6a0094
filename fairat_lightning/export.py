"""A trained network as a folder that needs neither this package nor Lightning.

  python -m fairat_lightning.export checkpoint=RUN to=FOLDER
  python -m fairat_lightning.export checkpoint=pretrained:digits_faal to=FOLDER    a network that comes with this package
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model=timm model.name=resnet18 data=cifar10
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model._target_=mypackage.MyNet allow=[mypackage.] data=cifar10

FOLDER then holds

  model.safetensors    the weights, with the images' mean and standard deviation
  model.py             the network's definition: `from model import load; logits = load()(images)` needs torch and safetensors,
                       for a model of timm timm too; a class of one's own is imported from its package
  README.md            the model card: class-wise figures of the run and of RUN/evaluation/, attacks, limits, configuration

Before the folder is there, the written network is loaded and must return the original's logits bit for bit.
The card of pretrained:NAME is copied, with the figures of its run; a NAME that does not exist lists those that do.
Others: data.root=FOLDER  key=model_ema  normalisation=none|cifar10|imagenet|[MEAN,STD] (of a file of others, see evaluate --help)
overwrite=true (replaces an earlier export, and nothing else)
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("export", __doc__)
