"""Random inputs of the local aggregation, and its exact results."""
import torch

from mmcontainer.ops import unfold_local_aggregation

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def random_case(batch, sharing, groups, heads, size, kernel, dtype, device='cpu'):
    """x, weight (B, M, G, K, H, W) and a gradient of the output."""
    shapes = ((batch, sharing * groups), (batch, heads, groups, kernel**2),
              (batch, heads * sharing * groups))
    return [torch.randn(*shape, *size).to(device, dtype) for shape in shapes]


def channels_last(maps):
    """Any maps (B, ..., H, W) with all channels of a position together in memory."""
    return maps.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))


def exact(x, weight, grad, *window):
    """Output and gradients of the explicit twin, in float64 on the CPU."""
    inputs = [t.detach().cpu().double().requires_grad_() for t in (x, weight)]
    out = unfold_local_aggregation(*inputs, *window)
    return out, *torch.autograd.grad(out, inputs, grad.cpu().double())


def assert_close(found, expected, dtype):
    """Compare results of a type, on any device, with exact ones."""
    for one, other in zip(found, expected):
        assert one.dtype == dtype and one.shape == other.shape
        error = (one.double().cpu() - other).abs().max()
        assert error <= TOLERANCES[dtype] * (1 + other.abs().max()), error
