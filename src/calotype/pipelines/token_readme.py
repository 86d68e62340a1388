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
side = int(codes.shape[1] ** 0.5)
z = vq.quantize.get_codebook_entry(codes.flatten(), (-1, side, side, vq.config.vq_embed_dim))
images = vq.decode(z, force_not_quantize=True).sample.detach()
VaeImageProcessor().postprocess(images)[0].save("drawn.png")
```
{here}"""
PROMPTED = """tokenizer = AutoTokenizer.from_pretrained(".")
said = tokenizer({prompts}, padding=True, truncation=True, return_tensors="pt")
tokens = model.generate(**said)[:, said.input_ids.shape[1] :]"""
UNPROMPTED = "tokens = model.generate()[:, 1:]"
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
    told = DECODED.format(here=HERE, imports="\n".join(imports), folder=folder, drawn=drawn)
    return text + told + cut + (ALPHA if tokenizer.mode == "RGBA" else "")


def _examples(prompts: "transformers.PreTrainedTokenizerFast", layout: Layout) -> list[str]:
    """Two prompts of unequal length, or two classes."""
    if not knows_classes(prompts):
        return [*EXAMPLES]
    names = sorted(prompts.get_vocab().items(), key=lambda item: item[1])
    return [name for name, i in names if 0 < i < layout.begin][:2]
