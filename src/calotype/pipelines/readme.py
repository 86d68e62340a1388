"""What stands in a saved pipeline's README.md: how anybody loads it, without calotype."""

from typing import Any

from calotype.diffusion import is_of_stable_diffusion
from calotype.lazy import diffusers
from calotype.pipelines.sampling import HowToSample, Pipeline, Sampling
from calotype.pipelines.token_readme import ALPHA, CARD, EXAMPLES, SILENT, token_readme
from calotype.pipelines.tokens import TokenPipeline
from calotype.tokenizers.readme import HERE
from calotype.training.images import CHANNELS

TEXT = """# Text to image

Trained with calotype; loads in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
image = pipeline("{prompt}", {how}).images[0]
image.save("drawn.png")
```
{here}
"""
STABLE = """Its networks have the layout of Stable Diffusion 1, in sizes of their own: diffusers'
training scripts and converters take them as they are.
"""
OWN = """Its networks have a layout of their own. Diffusers loads it and draws with it; converters
to single files, and programs that read those, know the layout of Stable Diffusion alone.
"""
FRAMED = """It is told how large the picture was that an image is of, and where that was cropped:
say `original_size` (height, width) and `crops_coords_top_left`. Without `original_size` it draws as
of pictures that were as small as what it draws.
"""
FLOW = """
It is a flow. Other schedulers that know flows draw with it too, made by
`from_config(pipeline.scheduler.config)`: those of DPM-Solver++, UniPC and DEIS, and FlowMatchEuler
in a loop of your own. Those of Euler, DDIM, PNDM and LCM refuse it. Some swaps draw garbage and say
nothing: another `prediction_type`, UniPC with `use_karras_sigmas`, and IPNDM.
"""
UNCONDITIONAL = """# Images from noise

Trained with calotype; loads in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
image = pipeline({how}).images[0]
image.save("drawn.png")
```
{here}
Load it in float32, as above: LDMPipeline draws noise in float32 and hands it to the network as it
is, so that with `torch_dtype=torch.float16` its first step fails.
"""


def readme(pipeline: Pipeline, sampling: HowToSample, folder: str) -> str:
    """The text for a pipeline's folder; `folder` is where the tokenizer of tokens is in it."""
    if isinstance(pipeline, TokenPipeline):
        return token_readme(pipeline.prompts, pipeline.tokenizer, pipeline.layout, folder)
    assert isinstance(sampling, Sampling)
    sampling = sampling.completed(pipeline)
    more = (FLOW if _is_flow(pipeline) else "") + (ALPHA if _has_alpha(pipeline) else "")
    if isinstance(pipeline, diffusers.StableDiffusionXLPipeline):
        how = f"num_inference_steps={sampling.steps}, guidance_scale={sampling.guidance}"
        if sampling.original_size is not None:
            how += f", original_size={tuple(sampling.original_size)}"
        card = CARD.format(library="diffusers", task="text-to-image")
        return card + TEXT.format(prompt=EXAMPLES[0], how=how, here=HERE) + FRAMED + more
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        how = f"num_inference_steps={sampling.steps}, guidance_scale={sampling.guidance}"
        layout = STABLE if _is_stable(pipeline) else OWN
        card = CARD.format(library="diffusers", task="text-to-image")
        return card + TEXT.format(prompt=EXAMPLES[0], how=how, here=HERE) + layout + more
    card = CARD.format(library="diffusers", task=SILENT)
    steps = f"num_inference_steps={sampling.steps}"
    return card + UNCONDITIONAL.format(how=steps, here=HERE) + more


def _is_flow(pipeline: Any) -> bool:
    return pipeline.scheduler.config.get("prediction_type") == "flow_prediction"


def _has_alpha(pipeline: Any) -> bool:
    vae = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    return vae is not None and vae.config.get("in_channels") == CHANNELS["RGBA"]


def _is_stable(pipeline: "diffusers.StableDiffusionPipeline") -> bool:
    """Whether UNet and autoencoder both are of Stable Diffusion's layout."""
    levels = len(pipeline.vae.config.get("block_out_channels", ()))
    return is_of_stable_diffusion(pipeline.unet) and levels == 4
