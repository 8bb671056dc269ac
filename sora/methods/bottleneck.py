"""Bottleneck adapters of a whole pack (Houlsby et al., ICML 2019), around one frozen linear layer.

y = W0 x + b0,     out = y + U_r gelu(D_r y + c_r) + u_r,     r = 1..R
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.01  # Houlsby et al., section 3.6: small, so that training starts near the identity; cut off at two of it


class BottleneckLinear(nn.Module):
    """An ``nn.Linear`` followed by R independent bottlenecks with a skip connection.

    Parameters: ``down`` [R, d, out], ``down_bias`` [R, d], ``up`` [R, d, out] (transposed), ``up_bias`` [R, out], all
    float32. Maps ``[R*b, t, in]``, replica-major, to ``[R*b, t, out]``; a leading dimension of 1 is shared by the
    replicas, ``[1, p, in] -> [R, p, out]``.
    """

    def __init__(self, base: nn.Linear, *, replicas: int, bottleneck: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.replicas, self.bottleneck = replicas, bottleneck
        size, device = base.out_features, base.weight.device
        self.down = nn.Parameter(torch.zeros(replicas, bottleneck, size, device=device))
        self.down_bias = nn.Parameter(torch.zeros(replicas, bottleneck, device=device))
        self.up = nn.Parameter(torch.zeros(replicas, bottleneck, size, device=device))
        self.up_bias = nn.Parameter(torch.zeros(replicas, size, device=device))

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> None:
        """Both matrices from N(0, 0.01) truncated to two deviations, biases 0; one CPU generator per replica."""
        for replica, generator in enumerate(generators):
            for tensor in (self.down, self.up):
                drawn = torch.empty(tensor.shape[1:])
                nn.init.trunc_normal_(drawn, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD, generator=generator)
                tensor[replica].copy_(drawn)

    def own(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by name, without the frozen layer's."""
        return {"down": self.down, "down_bias": self.down_bias, "up": self.up, "up_bias": self.up_bias}

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        base, replicas = self.base, self.replicas
        out = F.linear(x.to(base.weight.dtype), base.weight, base.bias)
        shape = (replicas, *out.shape[1:]) if out.shape[0] == 1 else out.shape
        if shape[0] % replicas:
            raise ValueError(f"a batch of {shape[0]} rows does not split over {replicas} replicas")
        rows = out.expand(shape).reshape(replicas, -1, base.out_features)
        down, up = self.down.to(rows.dtype), self.up.to(rows.dtype)
        inner = torch.baddbmm(self.down_bias.to(rows.dtype).unsqueeze(1), rows, down.transpose(1, 2))
        lifted = torch.baddbmm(self.up_bias.to(rows.dtype).unsqueeze(1), F.gelu(inner), up)
        return (rows + lifted).view(shape)
