"""Drawing image tokens beside transformers' `generate()` and DALLE-pytorch: 256 tokens of 512
codes, 12 layers of 512, guidance 3, a prompt of 24 tokens.

    python benchmarks/ar_sampling.py

Ours and `generate()` draw with the same weights, greedily, and give the same tokens. DALLE-pytorch
has a transformer of its own, of the same size; its guidance is only right without its cache, which
its users leave off too, and its cached one is timed beside. All take turns; medians of the rounds.
Where there is a GPU everything runs there, `generate()` with a static cache as well.
"""

import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from calotype.autoregressive import (
    Decoder,
    Layout,
    PromptTokens,
    Sequential,
    TokenSampling,
    draw_codes,
)
from calotype.autoregressive import Transformer as Spec

LAYOUT = Layout(text=1023, codes=512, codebooks=1, height=16, width=16)
PROMPT, WIDTH, LAYERS, HEADS, GUIDANCE, ROUNDS = 24, 512, 12, 8, 3.0, 3
BATCHES = (1, 4, 16)
"""Images at a time."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def stock(batch: int) -> dict[str, Callable[[], Tensor]]:
    """Ours and `generate()` on one model."""
    torch.manual_seed(0)
    spec = Spec(WIDTH, LAYERS, HEADS, Sequential())
    model: Any = spec.build(LAYOUT, PROMPT, 0).eval().to(DEVICE)
    tokens = torch.randint(LAYOUT.text, (batch, PROMPT), device=DEVICE)
    tokens[:, -1] = LAYOUT.begin
    seen = torch.ones_like(tokens)
    how = TokenSampling(GUIDANCE, temperature=0.0)

    def ours() -> Tensor:
        decoder = Decoder(model, LAYOUT)
        return draw_codes(decoder, PromptTokens(tokens, seen.bool()), range(batch), how)

    def generate(**options: Any) -> Tensor:
        drawn = model.generate(tokens, attention_mask=seen, do_sample=False,
                               guidance_scale=GUIDANCE, **options)  # fmt: skip
        return drawn[:, PROMPT:] - LAYOUT.first

    return {
        "calotype": ours, "generate()": generate,
        "generate(), static cache": lambda: generate(cache_implementation="static"),
    }  # fmt: skip


def dalle(batch: int) -> dict[str, Callable[[], Tensor]]:
    """DALLE-pytorch's, which imports what it does not need here."""
    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(get_distribution=None))  # type: ignore[arg-type]
    kinds = {name: type(name, (nn.Module,), {}) for name in ("OpenAIDiscreteVAE", "VQGanVAE")}
    sys.modules.setdefault("dalle_pytorch.vae", types.SimpleNamespace(**kinds))  # type: ignore[arg-type]
    from dalle_pytorch import DALLE, VQGanVAE

    class Tokens(VQGanVAE):
        """Of an image nothing but its tokens."""

        image_size, num_layers, num_tokens = 16 * LAYOUT.width, 4, LAYOUT.codes

        def decode(self, codes: Tensor) -> Tensor:
            return codes

    torch.manual_seed(0)
    model = DALLE(dim=WIDTH, vae=Tokens(), num_text_tokens=LAYOUT.text, text_seq_len=PROMPT,
                  depth=LAYERS, heads=HEADS, dim_head=WIDTH // HEADS).eval().to(DEVICE)  # fmt: skip
    text = torch.randint(1, LAYOUT.text, (batch, PROMPT), device=DEVICE)

    def run(cached: bool) -> Callable[[], Tensor]:
        return lambda: model.generate_images(text, cond_scale=GUIDANCE, use_cache=cached)

    return {"DALLE-pytorch, cached": run(True), "DALLE-pytorch": run(False)}


@torch.inference_mode()
def seconds(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Of one drawing."""
    started = time.perf_counter()
    drawn = run().cpu()
    return time.perf_counter() - started, drawn


def main() -> None:
    """The table."""
    print(f"{DEVICE}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| images at a time | drawn by | tokens/s | ours is faster by (spread) | same tokens |")
    print("|---|---|---|---|---|")
    for batch in BATCHES:
        runs = {**stock(batch), **dalle(batch)}
        if batch > 1:
            del runs["DALLE-pytorch"]  # minutes a batch
        times: dict[str, list[float]] = {name: [] for name in runs}
        drawn: dict[str, Tensor] = {}
        for turn in range(ROUNDS + 1):
            names = list(runs) if turn % 2 else list(reversed(runs))
            for name in names:
                if name == "DALLE-pytorch" and turn > 1:
                    continue
                took, drawn[name] = seconds(runs[name])
                if turn or name == "DALLE-pytorch":
                    times[name].append(took)
        for name, values in times.items():
            rate = batch * LAYOUT.length / statistics.median(values)
            ratios = [a / b for a, b in zip(values, times["calotype"], strict=False)]
            same = (drawn[name] == drawn["calotype"]).float().mean().item()
            equal = "-" if "DALLE" in name else f"{same:.1%}"
            print(f"| {batch} | {name} | {rate:.0f} | {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f}) | {equal} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
