"""Muon: momentum SGD whose update of each matrix is orthogonalised by Newton-Schulz iterations.

It takes far fewer samples than AdamW here, and the iterations are cheap because equal shapes are
batched and run in bf16. Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural
networks", 2024.
"""
import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon:
    """Convolution kernels are flattened to [out, in * height * width]."""

    def __init__(self, parameters, rate, momentum=0.95, decay=0.01):
        self.rate, self.momentum, self.decay = rate, momentum, decay
        self.groups = {}
        for parameter in parameters:
            shape = tuple(sorted(parameter.flatten(1).shape))
            self.groups.setdefault(shape, []).append(parameter)
        self.buffers = {shape: torch.zeros(len(members), *shape)
                        for shape, members in self.groups.items()}

    def state_dict(self):
        return self.buffers

    def load_state_dict(self, buffers):
        for shape, buffer in buffers.items():
            self.buffers[shape].copy_(buffer)

    @torch.no_grad()
    def step(self, rate_factor):
        rate = self.rate * rate_factor
        for shape, members in self.groups.items():
            wide = [tuple(parameter.flatten(1).shape) == shape for parameter in members]
            gradient = torch.stack([
                parameter.grad.flatten(1) if is_wide else parameter.grad.flatten(1).T
                for parameter, is_wide in zip(members, wide)])
            buffer = self.buffers[shape].mul_(self.momentum).add_(gradient)
            update = orthogonalise((gradient + self.momentum * buffer).bfloat16())
            for parameter, delta, is_wide in zip(members, update, wide):
                delta = (delta if is_wide else delta.T).float().reshape(parameter.shape)
                rows, cols = parameter.shape[0], parameter[0].numel()
                parameter.mul_(1 - rate * self.decay)
                parameter.add_(delta, alpha=-rate * max(1, rows / cols) ** 0.5)


def orthogonalise(matrices):
    """[n, rows <= cols]: pushes every singular value towards 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
