"""Large tensors in memory of their own."""

import psutil
import pytest
import torch

from calotype.training.memory import as_floats, room, stacked

LARGE = (3, 700, 700)


@pytest.mark.parametrize("shape", [(2, 3), LARGE])
@pytest.mark.parametrize("kind", [torch.float16, torch.uint8, torch.int16])
def test_stacked_is_what_torch_stacks(shape, kind):
    values = [torch.arange(6 * 10**6)[: torch.Size(shape).numel()].view(shape).to(kind) + i
              for i in range(3)]  # fmt: skip
    assert torch.equal(stacked(values), torch.stack(values))
    wide = torch.float32 if kind.is_floating_point else torch.int32
    assert torch.equal(stacked(values, wide), torch.stack(values).to(wide))
    assert torch.equal(as_floats(stacked(values)), torch.stack(values).float())


def own() -> int:
    """Bytes that the system would have back if this process ended."""
    return psutil.Process().memory_full_info().uss


def test_bug_each_batch_came_to_lie_behind_small_things_that_stay():
    """Rows of a cache of very many shards left a gap of 8 MB on the heap with each batch."""
    kept = []
    before = own()
    for _ in range(40):
        batch = room((2**23,), torch.uint8)
        batch.fill_(1)
        kept += [bytearray(1000) for _ in range(10)]
        del batch
    assert own() - before < 2**22, "it goes back to the system"


def test_it_may_be_read_and_written_after_what_made_it_is_gone():
    values = room((2**22,), torch.float32)
    part = values[10:20]
    del values
    part += 1
    assert part.tolist() == [1.0] * 10
