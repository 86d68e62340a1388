"""The exponential moving average of what is trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.training.checkpoint import Tensors
from calotype.training.objective import Rows


def rowwise(values: Tensor, like: Tensor) -> Tensor:
    """One value for each row of a tensor, so shaped that it stands for the whole row."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Average:
    """diffusers' `EMAModel` over a list of parameters, kept in float32."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.model = diffusers.training_utils.EMAModel(self.parameters, decay=decay, foreach=True)

    def step(self) -> None:
        """Follow the parameters by one optimiser step."""
        self.model.step(self.parameters)

    @torch.no_grad()
    def restart(self, rows: Rows) -> None:
        """Let the averages of rows that were set anew begin there; of others' there are none."""
        places = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        for parameter, which in rows:
            if (place := places.get(id(parameter))) is not None:
                average = self.model.shadow_params[place]
                average.copy_(torch.where(rowwise(which, average), parameter.float(), average))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the parameters are their average. `EMAModel.store` would keep them
        in the CPU's memory, and wait for both ways.
        """
        with torch.no_grad():
            own = [parameter.detach().clone() for parameter in self.parameters]
            self.model.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([p.data for p in self.parameters], own)

    def apply(self) -> None:
        """Turn the parameters into their average, for good."""
        self.model.copy_to(self.parameters)

    def tensors(self) -> Tensors:
        """What a checkpoint keeps."""
        return {str(i): tensor for i, tensor in enumerate(self.model.shadow_params)}

    def load(self, tensors: Tensors, step: int) -> None:
        """Put `tensors` back as they were after `step` updates."""
        for i, tensor in enumerate(self.model.shadow_params):
            tensor.copy_(tensors[str(i)])
        self.model.optimization_step = step
