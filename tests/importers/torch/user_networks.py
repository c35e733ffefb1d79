"""A Python file of a user's, with networks of PyTorch and what users get wrong."""

import torch
from torch import nn


class Net(nn.Module):
    """A small classifier of slices or volumes."""

    def __init__(self, rank=2):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.stem = conv(1, 3, 3, bias=False)
        self.norm = norm(3)
        self.grouped = nn.GroupNorm(1, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.grouped(x).flatten(2).mean(2))


class Options:
    """What a training may keep beside its weights."""

    def __init__(self, depth):
        self.depth = depth


class Outputs(Net):
    def forward(self, x):
        x = self.stem(x)
        return {"features": self.norm(x), "sum": (x.sum(),)}


class WithAge(Net):
    def forward(self, x, age):
        return self.head(self.stem(x).flatten(2).mean(2)) * age


class Activated(Net):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        return self.activation(self.stem(x))


class Bessel(Net):
    def forward(self, x):
        return torch.special.bessel_j0(self.stem(x))


class Branching(Net):
    def forward(self, x):
        x = self.stem(x)
        if x.max() > 1:
            x = x / 2
        return x


class OlderOnly(Net):
    def forward(self, x):
        if torch.compiler.is_exporting():
            raise NotImplementedError("Not with the new exporter.")
        return self.norm(self.stem(x))


def trained(module):
    """As after training: no statistic or scale has its first value any more."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape, generator=draws))
    return module


def alone():
    return trained(Net())


def volumes():
    return trained(Net(3)), (7, 6, 5, 1)


def tensor():
    return trained(Net()), torch.zeros(1, 1, 9, 8)


def with_age():
    return trained(WithAge()), (torch.zeros(1, 1, 9, 8), torch.full((1, 1), 3.0))


def outputs():
    return trained(Outputs()), (9, 8, 1)


def older_only():
    return trained(OlderOnly()), (9, 8, 1)


def compiled():
    return torch.compile(trained(Net())), (9, 8, 1)


def parallel():
    return nn.DataParallel(trained(Net())), (9, 8, 1)


def channels_first():
    return Net(), (1, 1, 9, 8, 7)


def batch():
    return Net(), torch.zeros(4, 1, 9, 8)


def wrong_channels():
    return Net(), (9, 8, 3)


def wrong_rank():
    return Net(), (9, 8, 7, 1)


def text():
    return Net(), "9,8,1"


def not_finite():
    module = Net()
    module.head.weight.data[0, 1] = float("nan")
    return module, (9, 8, 1)


def half():
    return Net().half(), (9, 8, 1)


def without_values():
    return Net().to("meta"), (9, 8, 1)


def bessel():
    return Bessel(), (9, 8, 1)


def branching():
    return Branching(), (9, 8, 1)


def raises():
    raise KeyError("weights")


def number():
    return 5
