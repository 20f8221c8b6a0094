"""Export a trained network as a folder that needs neither this package nor Lightning.

  python -m fairat_lightning.export checkpoint=RUN to=FOLDER
  python -m fairat_lightning.export checkpoint=pretrained:digits_faal to=FOLDER    a network that comes with this package
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model=timm model.name=resnet18 data=cifar10
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model._target_=mypackage.MyNet allow=[mypackage.] data=cifar10

FOLDER then holds

  model.safetensors    the weights, with the images' mean and standard deviation
  model.py             the network's definition: `from model import load; logits = load()(images)` needs torch and safetensors,
                       for a model of timm also timm; a class of your own is imported from its package
  README.md            the model card: class-wise figures of the run and of RUN/evaluation/, attacks, limits, configuration

The folder appears only after the written network has been loaded and has returned the original's logits bit for bit.
The model card of pretrained:NAME is copied, with the figures of its run. A NAME that does not exist lists the names that do.
Other settings: data.root=FOLDER, overwrite=true (replaces an earlier export, and nothing else), and for weights from elsewhere
key=model_ema and normalisation=none|cifar10|imagenet|[MEAN,STD] (see evaluate --help).
"""

from fairat_lightning.commands.cli import start

if __name__ == "__main__":
    start("export", __doc__)
