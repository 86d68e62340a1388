"""What ranks say to one another within a step."""

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def all_mean(tensor: Tensor) -> Tensor:
    """The mean over ranks; the tensor itself where there is one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
