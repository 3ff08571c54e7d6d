"""upfirdn2d in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch.nn.functional as F
from torch import Tensor


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x: int,
    pad_y: int,
    out_h: int,
    out_w: int,
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad or crop, convolve, keep every down-th sample; f [kh, kw], or [k] for its outer product.

    The output's size stands for the padding at the far end, as much as the last output reaches for.
    """
    n, c, h, w = x.shape
    f = f.to(x.dtype) if f.ndim == 2 else f.to(x.dtype).outer(f.to(x.dtype))
    kernel = (f if flip_filter else f.flip((0, 1))) * gain
    far_x = (out_w - 1) * down_x + kernel.shape[1] - w * up_x - pad_x
    far_y = (out_h - 1) * down_y + kernel.shape[0] - h * up_y - pad_y

    u = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    u = F.pad(u, [max(pad_x, 0), max(far_x, 0), max(pad_y, 0), max(far_y, 0)])
    u = u[:, :, max(-pad_y, 0) : u.shape[2] - max(-far_y, 0), max(-pad_x, 0) : u.shape[3] - max(-far_x, 0)]
    return F.conv2d(u, kernel.expand(c, 1, -1, -1), stride=(down_y, down_x), groups=c)
