"""What stands in a saved pipeline's README.md: how anybody loads it, without calotype."""

from calotype.lazy import diffusers
from calotype.pipelines.sampling import HowToSample, Pipeline, Sampling
from calotype.pipelines.tokens import TokenPipeline

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


def readme(pipeline: Pipeline, sampling: HowToSample, folder: str) -> str:
    """The text for a pipeline's folder; `folder` is where the tokenizer of tokens is in it."""
    if isinstance(pipeline, TokenPipeline):
        stock = ", a `VQModel` of diffusers" if pipeline.tokenizer.export() is not None else ""
        return TOKENS.format(folder=folder, stock=stock)
    assert isinstance(sampling, Sampling)
    sampling = sampling.completed(pipeline)
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        how = f"num_inference_steps={sampling.steps}, guidance_scale={sampling.guidance}"
        return TEXT.format(prompt="a prompt", how=how)
    return UNCONDITIONAL.format(how=f"num_inference_steps={sampling.steps}")
