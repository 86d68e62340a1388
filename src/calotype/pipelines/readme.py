"""What stands in a saved pipeline's README.md: how anybody loads it, without calotype."""

from calotype.lazy import diffusers
from calotype.pipelines.sampling import HowToSample, Pipeline, Sampling
from calotype.pipelines.tokens import TokenPipeline

CARD = """---
license: unknown
library_name: {library}
pipeline_tag: {task}
tags:
- calotype
---

"""
"""What the Hub reads first. Nobody was asked for a licence: `unknown` is its word for that."""
TEXT = """# Text to image

Trained with calotype; loads in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
image = pipeline("{prompt}", {how}).images[0]
image.save("drawn.png")
```
"""
UNCONDITIONAL = """# Images from noise

Trained with calotype; loads in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
image = pipeline({how}).images[0]
image.save("drawn.png")
```

Load it in float32, as above: LDMPipeline draws noise in float32 and hands it to the network as it
is, so that with `torch_dtype=torch.float16` its first step fails.
"""
TOKENS = """# Images, token by token

Trained with calotype. The transformer here is a `LlamaForCausalLM` of transformers, which draws
tokens with its own `generate()`; `{folder}/` is the tokenizer that turns them into an image{stock}.
`calotype generate PROMPT --pipeline .` does both.
"""
DECODED = """
```python
from diffusers import VQModel
from diffusers.image_processor import VaeImageProcessor
from transformers import AutoModelForCausalLM{more}

model = AutoModelForCausalLM.from_pretrained(".")
vq = VQModel.from_pretrained(".", subfolder="{folder}")
{drawn}
codes = tokens - (model.config.vocab_size - vq.config.num_vq_embeddings)  # image tokens come last
side = int(codes.shape[1] ** 0.5)
z = vq.quantize.get_codebook_entry(codes.flatten(), (-1, side, side, vq.config.vq_embed_dim))
images = vq.decode(z, force_not_quantize=True).sample.detach()
VaeImageProcessor().postprocess(images)[0].save("drawn.png")
```
"""
PROMPTED = """tokenizer = AutoTokenizer.from_pretrained(".")
said = tokenizer(["a prompt"], padding=True, truncation=True, return_tensors="pt")
tokens = model.generate(**said)[:, said.input_ids.shape[1] :]"""
UNPROMPTED = "tokens = model.generate()[:, 1:]"


def readme(pipeline: Pipeline, sampling: HowToSample, folder: str) -> str:
    """The text for a pipeline's folder; `folder` is where the tokenizer of tokens is in it."""
    if isinstance(pipeline, TokenPipeline):
        return CARD.format(library="transformers", task="text-to-image") + _tokens(pipeline, folder)
    assert isinstance(sampling, Sampling)
    sampling = sampling.completed(pipeline)
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        how = f"num_inference_steps={sampling.steps}, guidance_scale={sampling.guidance}"
        card = CARD.format(library="diffusers", task="text-to-image")
        return card + TEXT.format(prompt="a prompt", how=how)
    card = CARD.format(library="diffusers", task="unconditional-image-generation")
    return card + UNCONDITIONAL.format(how=f"num_inference_steps={sampling.steps}")


def _tokens(pipeline: TokenPipeline, folder: str) -> str:
    if pipeline.tokenizer.export() is None:
        return TOKENS.format(folder=folder, stock="")
    prompted = pipeline.prompts is not None
    return TOKENS.format(folder=folder, stock=", a `VQModel` of diffusers") + DECODED.format(
        folder=folder, drawn=PROMPTED if prompted else UNPROMPTED,
        more=", AutoTokenizer" if prompted else "",
    )  # fmt: skip
