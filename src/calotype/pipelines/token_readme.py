"""What stands in a saved transformer's README.md: how anybody loads it, without calotype."""

from calotype.autoregressive import Layout, knows_classes
from calotype.lazy import transformers
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.readme import HERE

CARD = """---
license: unknown
library_name: {library}
pipeline_tag: {task}
tags:
- calotype
---

"""
"""What the Hub reads first. Nobody has been asked for a licence: `unknown` is its word for that."""
SILENT = "unconditional-image-generation"
TOKENS = """# Images, token by token

Trained with calotype. The transformer here is a `LlamaForCausalLM` of transformers, which draws
tokens with its own `generate()`; `{folder}/` is the tokenizer that turns them into an image{stock}.
`calotype generate PROMPT --pipeline .` does both.
"""
DECODED = """
```python
{imports}

model = AutoModelForCausalLM.from_pretrained(".")
vq = VQModel.from_pretrained(".", subfolder="{folder}")
{drawn}
codes = tokens - (model.config.vocab_size - vq.config.num_vq_embeddings)  # image tokens come last
{grid}
z = vq.quantize.get_codebook_entry(codes.flatten(), (-1, {rows}, vq.config.vq_embed_dim))
images = vq.decode(z, force_not_quantize=True).sample.detach()
VaeImageProcessor().postprocess(images)[0].save("drawn.png")
```
{here}"""
PROMPTED = """tokenizer = AutoTokenizer.from_pretrained(".")
said = tokenizer({prompts}, padding=True, truncation=True, return_tensors="pt")
tokens = model.generate(**said)[:, said.input_ids.shape[1] :]"""
UNPROMPTED = "tokens = model.generate()[:, 1:]"
SQUARE = "side = int(codes.shape[1] ** 0.5)", "side, side"
OBLONG = "height, width = {height}, {width}  # in tokens", "height, width"
SHAPES = """
It draws images of {count} shapes. Begin-of-image, the last token of a prompt, says of which: of
{usual} pixels unless another stands there, and as many tokens follow as the shape has. So for
another {asks}, and tell `generate` its `max_new_tokens`, `height` and `width` in what follows.

| pixels | begin-of-image | height, width | max_new_tokens |
|---|---|---|---|
{table}
"""
NAMED = "write `said.input_ids[:, -1] = begin`"
UNNAMED = "give `input_ids=torch.tensor([[begin]])`"
EXAMPLES = ("a prompt", "another, which is longer")
"""What the lines of a README.md draw, where nobody knows better; the first of a diffusion model."""
CUT = """
`truncation=True` is of use: the transformer knows no places behind those of the longest prompt and
an image, and its stock class does not say when they end.
"""
ALPHA = """
Its pictures have alpha, and their colours are as they are on white: `image.convert("RGB")` is the
picture on white, and `image.getchannel("A")` its alpha. `calotype generate` writes colours as files
have them, for any ground.
"""


def token_readme(
    prompts: "transformers.PreTrainedTokenizerFast | None", tokenizer: ImageTokenizer,
    layout: Layout, folder: str,
) -> str:  # fmt: skip
    """The text for the folder of a transformer; `folder` is where the tokenizer of images is in
    it.
    """
    task = SILENT if prompts is None else "text-to-image"
    head = CARD.format(library="transformers", task=task)
    if tokenizer.export() is None:
        return head + TOKENS.format(folder=folder, stock="")
    imports = [
        "from diffusers import VQModel",
        "from diffusers.image_processor import VaeImageProcessor",
        "from transformers import AutoModelForCausalLM",
    ]
    text = head + TOKENS.format(folder=folder, stock=", a `VQModel` of diffusers")
    drawn, cut = UNPROMPTED, ""
    if prompts is not None:
        imports[-1] += ", AutoTokenizer"
        drawn, cut = PROMPTED.format(prompts=_examples(prompts, layout)), CUT
    grid, rows = SQUARE if layout.height == layout.width else OBLONG
    grid = grid.format(height=layout.height, width=layout.width)
    told = DECODED.format(here=HERE, imports="\n".join(imports), folder=folder, drawn=drawn,
                          grid=grid, rows=rows)  # fmt: skip
    shapes = _shapes(layout, tokenizer.factor, prompts is not None)
    return text + told + cut + shapes + (ALPHA if tokenizer.mode == "RGBA" else "")


def _shapes(layout: Layout, factor: int, prompted: bool) -> str:
    """What is to be said where there are several."""
    if len(layout.shapes) == 1:
        return ""
    each = [layout.of(*grid) for grid in layout.shapes]
    pixels = [f"{factor * one.width}x{factor * one.height}" for one in each]
    lines = [
        f"| {size} | {one.begin} | {one.height}, {one.width} | {one.length} |"
        for size, one in zip(pixels, each, strict=True)
    ]
    return SHAPES.format(count=len(each), usual=pixels[0], table="\n".join(lines),
                         asks=NAMED if prompted else UNNAMED)  # fmt: skip


def _examples(prompts: "transformers.PreTrainedTokenizerFast", layout: Layout) -> list[str]:
    """Two prompts of unequal length, or two classes."""
    if not knows_classes(prompts):
        return [*EXAMPLES]
    names = sorted(prompts.get_vocab().items(), key=lambda item: item[1])
    return [name for name, i in names if 0 < i < layout.text][:2]
