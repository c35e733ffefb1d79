"""Small networks of every kind that people bring, as PyTorch modules with random weights."""

import torch
from torch import nn

NETS = {}
"""``(factory, shape of one image)`` by name, shapes as in PyTorch: ``(1, channels, *spatial)``."""


def _net(name, *shape):
    def named(factory):
        NETS[name] = (factory, shape)
        return factory

    return named


class Block(nn.Module):
    """A residual block: one rectifier for both places, and one by a function."""

    def __init__(self, inputs, outputs, stride, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.relu = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3, 1, 1)
        self.down = conv(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return torch.relu(self.relu(y) - y.mean() + self.down(x))


@_net("residual", 1, 3, 24, 20)
class Residual(nn.Module):
    """For colour: blocks in sequences, a block that is called twice, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 5, 2, 2)
        self.layer1 = nn.Sequential(Block(6, 6, 1), Block(6, 8, 2))
        self.again = Block(8, 8, 1)
        self.heads = nn.ModuleDict({"pool": nn.AdaptiveAvgPool2d(1), "linear": nn.Linear(8, 3)})

    def forward(self, x):
        x = self.again(self.again(self.layer1(self.stem(x))))
        return torch.log_softmax(self.heads["linear"](self.heads["pool"](x).flatten(1)), 1)


class ChannelNorm(nn.Module):
    """A norm over channels, written by hand, of several operations."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return (
            centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * self.scale.view(shape)
        )


@_net("u-net", 1, 2, 8, 12, 8)
class UNet(nn.Module):
    """For volumes of two contrasts: skips, norms of several kinds, and two ways up."""

    def __init__(self):
        super().__init__()

        def twice(inputs, outputs, norm):
            return nn.Sequential(
                nn.Conv3d(inputs, outputs, 3, padding=1), norm, nn.LeakyReLU(0.1),
                nn.Conv3d(outputs, outputs, 3, padding=1), nn.PReLU(),
            )  # fmt: skip

        self.down1 = twice(2, 4, nn.InstanceNorm3d(4, affine=True))
        self.down2 = twice(4, 8, nn.GroupNorm(2, 8))
        self.bottom = twice(8, 8, ChannelNorm(8))
        self.pool = nn.MaxPool3d(2)
        self.up2 = nn.ConvTranspose3d(8, 8, 2, 2)
        self.up1 = nn.Upsample(scale_factor=2, mode="trilinear")
        self.join2, self.join1 = twice(16, 8, nn.BatchNorm3d(8)), twice(12, 4, nn.Identity())
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.join2(torch.cat([self.up2(self.bottom(self.pool(two))), two], 1))
        return self.head(self.join1(torch.cat([self.up1(x), one], 1)))


class Attention(nn.Module):
    """Attention of several heads, as people write it out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = torch.einsum("bhxd,bhyd->bhxy", q, k) * q.shape[-1] ** -0.5
        mixed = torch.einsum("bhxy,bhyd->bhxd", weights.softmax(-1), v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


def perceptron(width):
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each around a skip."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches, places, blocks; with a class token or without."""

    def __init__(self, *, has_class_token):
        super().__init__()
        self.patches = nn.Conv3d(1, 12, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 12, 12))
        self.token = nn.Parameter(torch.randn(1, 1, 12)) if has_class_token else None
        self.blocks = nn.ModuleList(TransformerBlock(12, 3) for _ in range(2))
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1) if self.token is None else x[:, 0])


@_net("transformer", 1, 1, 8, 12, 8)
def transformer():
    return Transformer(has_class_token=False)


@_net("class token", 1, 1, 8, 12, 8)
def with_class_token():
    return Transformer(has_class_token=True)


@_net("torch's own attention", 1, 1, 16, 12)
class Encoder(nn.Module):
    """What `torch.nn` has for transformers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.pool = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        return self.pool(x.mean(1, keepdim=True), x, x)[0].flatten(1)


class WindowBlock(nn.Module):
    """Attention in shifted windows, on a grid with channels last."""

    def __init__(self, width, window, shift):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, 2)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        batch, rows, columns, width = x.shape
        n = self.window
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(batch, rows // n, n, columns // n, n, width).transpose(2, 3)
        y = self.attention(y.reshape(-1, n * n, width))
        y = y.view(batch, rows // n, columns // n, n, n, width).transpose(2, 3)
        y = torch.roll(y.reshape(x.shape), (self.shift, self.shift), (1, 2))
        return x + self.mlp(x + y)


class Merging(nn.Module):
    """Neighbours become channels."""

    def __init__(self, width):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduction(torch.cat(parts, -1))


@_net("windows", 1, 1, 32, 16)
class Windows(nn.Module):
    """A small Swin transformer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.stage1 = nn.Sequential(WindowBlock(8, 4, 0), WindowBlock(8, 4, 2), Merging(8))
        self.stage2 = nn.Sequential(WindowBlock(16, 4, 0), WindowBlock(16, 4, 2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        return self.head(self.norm(self.stage2(self.stage1(x))).mean((1, 2)))


def make(name):
    """A network as after training, and the shape of its image.

    Statistics and scales have no first values any more.
    """
    factory, shape = NETS[name]
    torch.manual_seed(0)
    model = factory().eval()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.dtype == torch.float32 and value.ndim == 1:
                value.add_(0.3 * torch.rand(value.shape))
    return model, shape
