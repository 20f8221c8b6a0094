"""Adversarial training as the public code of the field does it, re-stated by us for comparison; no line of it is theirs.

float32 in torch's default layout; a DataLoader whose workers crop and flip one PIL image at a time; the attack calls `backward`,
which computes the gradient of every weight too; TRADES's attack computes the clean prediction anew in each of its steps; FAAL
runs a clean forward that its loss does not use, and solves a convex program, built anew by a modelling language, for each batch.
"""

import torch
import torch.nn.functional as F
from cost import clock
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10


class Pictures(Dataset):
    def __init__(self, pixels, labels, augment):
        steps = [transforms.ToPILImage(), transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.change = transforms.Compose([*steps, *augment, transforms.ToTensor()])
        self.pixels, self.labels = pixels, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.change(self.pixels[i]), int(self.labels[i])


class Published:
    """One step of `method` (pgd_at, trades, faal, fairat) on a PreAct ResNet-18 of `width`."""

    def __init__(self, spec):
        from fairat_lightning.models import preactresnet18

        self.method, size, self.classes = spec["method"], spec["batch_size"], spec["classes"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        shape = {"num_classes": self.classes, "in_channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        self.net = preactresnet18(width=spec["width"], **shape).to(self.device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        pixels = torch.randint(256, (10 * size, 3, 32, 32), dtype=torch.uint8)
        augment = [transforms.RandAugment(2, 8)] if self.method == "fairat" else []
        labels = torch.randint(self.classes, (10 * size,))
        self.loader = DataLoader(
            Pictures(pixels, labels, augment), size, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
        )
        self.batches = iter(self.loader)
        if self.method == "faal":
            import cvxpy  # noqa: F401

    def step(self):
        before = clock()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        x, y = (t.to(self.device) for t in batch)
        fetching = clock() - before
        self.train(x, y)
        return {"seconds": clock() - before, "fetching": fetching}

    def train(self, x, y):
        net = self.net
        net.eval()
        x_adv = self.attack(x, y)
        net.train()
        self.optimizer.zero_grad()
        if self.method == "trades":
            clean, adv = net(x), net(x_adv)
            loss = F.cross_entropy(clean, y) + 6 * F.kl_div(adv.log_softmax(1), clean.softmax(1), reduction="batchmean")
        elif self.method == "faal":
            net(x)
            adv = net(x_adv)
            weights = self.distribution(adv.detach().softmax(1), y)
            loss = (self.classes * weights[y] * F.cross_entropy(adv, y, reduction="none")).mean()
        else:
            loss = F.cross_entropy(net(x_adv), y)
        loss.backward()
        self.optimizer.step()

    def attack(self, x, y):
        if self.method == "trades":
            x_adv = x + 0.001 * torch.randn_like(x)
        else:
            x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(STEPS):
            x_adv = x_adv.detach().requires_grad_()
            logits = self.net(x_adv)
            if self.method == "trades":
                loss = F.kl_div(logits.log_softmax(1), self.net(x).softmax(1), reduction="sum")
                gradient = torch.autograd.grad(loss, x_adv)[0]  # its authors do ask for this one alone
            else:
                self.net.zero_grad()
                F.cross_entropy(logits, y).backward()
                gradient = x_adv.grad
            x_adv = x_adv.detach() + STEP * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        return x_adv.detach()

    def distribution(self, probabilities, y):
        own = probabilities.gather(1, y[:, None]).squeeze(1)
        margins = probabilities.scatter(1, y[:, None], -1).amax(1) - own
        scores = [float(margins[y == k].mean()) if (y == k).any() else -1.0 for k in range(self.classes)]
        return torch.tensor(solve(scores, 0.5), dtype=torch.float32, device=self.device)


def solve(scores, radius):
    """FAAL's program by cvxpy: maximise p a over the simplex with KL(uniform || p) <= radius."""
    import cvxpy
    import numpy as np

    n = len(scores)
    p = cvxpy.Variable(n)
    ball = cvxpy.sum(cvxpy.kl_div(np.full(n, 1 / n), p)) <= radius
    program = cvxpy.Problem(cvxpy.Maximize(p @ np.asarray(scores)), [cvxpy.sum(p) == 1, p >= 0, ball])
    program.solve(solver="ECOS" if "ECOS" in cvxpy.installed_solvers() else "CLARABEL")
    return p.value


class TorchAttacks(Published):
    """PGD-AT whose attack is torchattacks' PGD, as its documentation shows it."""

    def __init__(self, spec):
        import torchattacks

        super().__init__({**spec, "method": "pgd_at"})
        self.pgd = torchattacks.PGD(self.net, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)

    def attack(self, x, y):
        return self.pgd(x, y).detach()
