"""LPIPS against its definition written in PyTorch, with random backbones and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from genjax import weights  # noqa: E402

pytestmark = pytest.mark.parity
SHIFT, SCALE = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]


def alex(x, w):
    taps, at = [], [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]
    for n, (i, stride, pad) in enumerate(at):
        if n in (1, 2):
            x = F.max_pool2d(x, 3, 2)
        x = F.relu(F.conv2d(x, w[f"{i}.weight"], w[f"{i}.bias"], stride=stride, padding=pad))
        taps.append(x)
    return taps


def vgg(x, w):
    taps = []
    for n, block in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))):
        if n:
            x = F.max_pool2d(x, 2, 2)
        for i in block:
            x = F.relu(F.conv2d(x, w[f"{i}.weight"], w[f"{i}.bias"], padding=1))
        taps.append(x)
    return taps


def fire(x, w, i):
    part = lambda x, name, pad=0: F.relu(  # noqa: E731
        F.conv2d(x, w[f"{i}.{name}.weight"], w[f"{i}.{name}.bias"], padding=pad)
    )
    x = part(x, "squeeze")
    return torch.cat([part(x, "expand1x1"), part(x, "expand3x3", 1)], 1)


def squeeze(x, w):
    taps = [F.relu(F.conv2d(x, w["0.weight"], w["0.bias"], stride=2))]
    for block in ((3, 4), (6, 7), (9,), (10,), (11,), (12,)):
        x = taps[-1]
        if block[0] in (3, 6, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i in block:
            x = fire(x, w, i)
        taps.append(x)
    return taps


def convs(net):
    """Returns name -> (out, in, size) of the backbone, from the architectures' papers."""
    if net == "alex":
        return {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3)} | {
            "10": (256, 256, 3)
        }
    if net == "vgg":
        at = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
        width = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
        return {str(i): (width[n + 1], width[n], 3) for n, i in enumerate(at)}
    out, channels = {"0": (64, 3, 3)}, 64
    for i, s, e in (
        *((3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128)),
        *((9, 48, 192), (10, 48, 192), (11, 64, 256), (12, 64, 256)),
    ):
        out |= {f"{i}.squeeze": (s, channels, 1), f"{i}.expand1x1": (e, s, 1)}
        out |= {f"{i}.expand3x3": (e, s, 3)}
        channels = 2 * e
    return out


HEADS = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}
NETS = {"alex": alex, "vgg": vgg, "squeeze": squeeze}


def random_weights(net):
    torch.manual_seed(0)
    backbone = {}
    for name, (o, i, k) in convs(net).items():
        backbone[f"{name}.weight"] = torch.randn(o, i, k, k) * (2 / (i * k * k)) ** 0.5
        backbone[f"{name}.bias"] = torch.randn(o) * 0.1
    return backbone, [torch.rand(c) for c in HEADS[net]]


def distance(x, y, net, backbone, heads):
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    total = 0
    taps = zip(*(NETS[net]((v - shift) / scale, backbone) for v in (x, y)))
    for (a, b), w in zip(taps, heads):
        a, b = (f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
        total = total + ((a - b) ** 2 * w.view(1, -1, 1, 1)).sum(1).mean((1, 2))
    return total


def parts(backbone, heads):
    """Returns the two public files as one: torchvision's classifier and the package's heads."""
    tensors = {f"features.{k}": v.numpy() for k, v in backbone.items()}
    tensors["classifier.1.weight"] = np.zeros((2, 2), np.float32)
    return tensors | {
        f"lin{i}.model.1.weight": w.view(1, -1, 1, 1).numpy() for i, w in enumerate(heads)
    }


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [(64, 64), (71, 66)])
def test_distance_and_gradient(net, size):
    backbone, heads = random_weights(net)
    module, variables = weights.load("lpips", parts(backbone, heads), net=net)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, 2, *size, 3)).astype(np.float32)
    t = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    want = distance(t, torch.tensor(y.transpose(0, 3, 1, 2)), net, backbone, heads)
    want.sum().backward()
    loss = lambda x: module.apply(variables, x, y)  # noqa: E731
    got, grad = jax.value_and_grad(lambda x: (lambda d: (d.sum(), d))(loss(x)), has_aux=True)(
        jnp.asarray(x)
    )
    np.testing.assert_allclose(got[1], want.detach().numpy(), rtol=1e-4)
    # Where rounding decides which of two pixels a maximum takes, single gradients move.
    slope = t.grad.numpy().transpose(0, 2, 3, 1)
    assert np.linalg.norm(grad - slope) < 0.02 * np.linalg.norm(slope)
    assert float(jnp.abs(module.apply(variables, x, x)).max()) == 0
    np.testing.assert_allclose(module.apply(variables, y, x), got[1], rtol=1e-6)
