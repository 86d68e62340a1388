"""A CUDA device where there is none: tensors with shapes, dtypes and a device, and no contents.

What is wrong with code that has never met a GPU shows on it: tensors of two devices in one
operation, and lines that wait for the device. Numbers that are read are made up.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import accelerate
import numpy as np
import torch
import torch._dynamo.polyfills.tensor  # it insists on the unpatched _make_subclass
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

CUDA = torch.device("cuda:0")
ATEN = torch.ops.aten
READS = {ATEN._local_scalar_dense, ATEN.equal, ATEN.is_nonzero}
COUNTS = {ATEN.nonzero, ATEN.masked_select, ATEN._unique2, ATEN.bincount, ATEN.unique_dim}
"""Their results are as large as the contents say: the device is asked."""
COPIES = {ATEN._to_copy, ATEN.copy_}
SOURCE = str(Path(sys.modules["calotype"].__file__ or "").parent)


F = torch.nn.functional
LOW = {torch.conv2d, F.conv2d, F.linear, F.scaled_dot_product_attention, torch.matmul, torch.mm,
       torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.mm, Tensor.bmm,
       Tensor.__matmul__, Tensor.__rmatmul__}  # fmt: skip
HIGH = {F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.softmax, torch.softmax,
        Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.cross_entropy,
        F.mse_loss, F.l1_loss, torch.exp, Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow,
        torch.norm, Tensor.norm, torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum}  # fmt: skip
"""What CUDA's autocast computes in the lower precision, and in float32: as far as is met here."""


class Autocast(TorchFunctionMode):
    """CUDA's autocast: C++ would look for tensors that are really there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, dtype = kwargs or {}, None
        if torch.is_autocast_enabled("cuda"):
            low = torch.get_autocast_dtype("cuda")
            dtype = low if func in LOW else torch.float32 if func in HIGH else None
        if dtype is not None:

            def cast(tensor: Tensor) -> Tensor:
                wanted = tensor.is_floating_point() and tensor.device.type == "cuda"
                return tensor.to(dtype) if wanted else tensor

            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
        return func(*args, **kwargs)


class Watch(FakeTensorMode):
    """Notes which lines of calotype wait for the device."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.pinned = WeakTensorKeyDictionary()

    def taken(self) -> dict[str, int]:
        """The waits so far, `file.py: function`, and how often each was met; forgets them."""
        found, self.waits = dict(self.waits), Counter()
        return found

    def pin(self, tensor: Tensor) -> Tensor:
        """What `Tensor.pin_memory` does, as far as it matters here."""
        assert tensor.device.type == "cpu", "only the CPU's memory can be pinned"
        copy = tensor.clone()
        self.pinned[copy] = True
        return copy

    def wait(self) -> None:
        """Note one."""
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
            frame = frame.f_back
        name = "elsewhere"
        if frame is not None:
            name = f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}"
        self.waits[name] += 1

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do as the mode does, and note what it means."""
        # Nothing is drawn, and some operations without contents refuse to be told what from.
        kwargs = {k: None if k == "generator" else v for k, v in (kwargs or {}).items()}
        if kwargs.get("device") == torch.device("meta"):  # as C++ calls it
            kwargs["device"] = CUDA
        name = func.overloadpacket
        args = tree_map_only(Tensor, self._listed_index, args)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(t.device.type == "cuda" for t in tensors)
        if name in READS:
            if on_device:
                self.wait()
            return _made_up(args[0].dtype) if name is ATEN._local_scalar_dense else False
        if on_device and (name in COUNTS or self._is_masked(name, args)):
            self.wait()
        if name is ATEN.nonzero:  # one is found
            with self:
                return torch.zeros(1, args[0].dim(), dtype=torch.long, device=args[0].device)
        out = super().dispatch(func, types, args, kwargs)
        if name in COPIES:
            self._copied(args, kwargs, out)
        return out

    def _listed_index(self, given: Tensor) -> Tensor:
        """What C++ makes of a list of indices without asking any mode, as a fake tensor."""
        if isinstance(given, FakeTensor) or given.device.type != "meta":
            return given
        self.wait()
        with self:
            return torch.empty(given.shape, dtype=given.dtype, device=CUDA)

    def _is_masked(self, name: Any, args: Any) -> bool:
        if name not in (ATEN.index, ATEN.index_put, ATEN.index_put_):
            return False
        return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])

    def _copied(self, args: Any, kwargs: Any, out: Tensor) -> None:
        source = args[1] if out is args[0] else args[0]
        if source.device.type == out.device.type:
            return
        wants = kwargs.get("non_blocking") or (out is args[0] and len(args) > 2 and args[2])
        free = wants and source.device.type == "cpu" and source in self.pinned
        if not free:
            self.wait()


def _made_up(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return True
    return 0.5 if dtype.is_floating_point else 0


def moved(module: nn.Module, device: Any = None, *rest: Any, **options: Any) -> nn.Module:
    """What `Module.to(device)` does, which cannot change a fake tensor's device."""
    if device is None or isinstance(device, torch.dtype):
        return _to(module, device, *rest, **options)
    known: dict[int, nn.Parameter] = {}
    for each in module.modules():
        for name, old in each._parameters.items():
            if old is not None and old.device != torch.device(device):
                new = nn.Parameter(old.detach().to(device), old.requires_grad)
                each._parameters[name] = known.setdefault(id(old), new)
        for name, old in each._buffers.items():
            each._buffers[name] = old if old is None else old.to(device)
    return module


_to = nn.Module.to
_make_subclass = Tensor._make_subclass


def _without_device(
    cls: type[Any], data: Tensor, requires_grad: bool = False, **options: Any
) -> Any:
    # To C++ what lies on the device is a meta tensor, else autograd would ask the driver for a
    # stream; all that Python and the dispatcher see is as ever.
    if options.get("device_for_backend_keys") == CUDA:
        options.pop("dispatch_device", None)
    return _make_subclass(cls, data, requires_grad, **options)


def _listed(watch: Watch, tensor: Tensor) -> Any:
    """What `tolist` gives, with one wait for all of it."""
    if tensor.device.type == "cuda":
        watch.wait()

    def of(shape: tuple[int, ...]) -> Any:
        return [of(shape[1:]) for _ in range(shape[0])] if shape else _made_up(tensor.dtype)

    return of(tuple(tensor.shape))


def _array(tensor: Tensor) -> np.ndarray:
    assert tensor.device.type == "cpu", "NumPy reads the CPU's memory alone"
    return np.ones(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@contextmanager
def fake_cuda() -> Iterator[Watch]:
    """While it is entered, every new tensor is without contents, and `cuda:0` is the device that
    Accelerate trains on.
    """
    with ExitStack() as stack:
        watch = Watch()
        state = accelerate.state.AcceleratorState
        state._reset_state(True)
        stack.callback(state._reset_state, True)
        for owner, name, new in (
            (Tensor, "_make_subclass", staticmethod(_without_device)),
            (Tensor, "pin_memory", lambda tensor, device=None: watch.pin(tensor)),
            (FakeTensor, "tolist", lambda tensor: _listed(watch, tensor)),
            (FakeTensor, "numpy", lambda tensor, force=False: _array(tensor)),
            (nn.Module, "to", moved),
            (accelerate.PartialState, "default_device", CUDA),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        ):
            stack.enter_context(patch.object(owner, name, new))
        for name, new in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available",
             lambda: False),
            # It asks all ranks by a tensor, of which nothing can be read.
            ("calotype.training.trainer.agreed", lambda name: name),
            # It would begin the driver.
            ("calotype.tokenizers.bottlenecks.gumbel.reseeded", lambda device, own: own),
            ("calotype.training.distributed.on_cpu", lambda: False),
            ("calotype.training.trainer.on_cpu", lambda: False),
        ):  # fmt: skip
            stack.enter_context(patch(name, new))
        stack.enter_context(watch)
        stack.enter_context(Autocast())
        yield watch
