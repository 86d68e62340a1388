"""What stands in a saved pipeline's README.md: how anybody loads it, without calotype."""

from typing import Any

from calotype.diffusion import is_of_stable_diffusion
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
"""What the Hub reads first. Nobody has been asked for a licence: `unknown` is its word for that."""
SILENT = "unconditional-image-generation"
TEXT = """# Text to image

Trained with calotype; loads in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
image = pipeline("{prompt}", {how}).images[0]
image.save("drawn.png")
```

"""
STABLE = """Its networks have the layout of Stable Diffusion 1, in sizes of their own: diffusers'
training scripts and converters take them as they are.
"""
OWN = """Its networks have a layout of their own. Diffusers loads it and draws with it; converters
to single files, and programs that read those, know the layout of Stable Diffusion alone.
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
"""
PROMPTED = """tokenizer = AutoTokenizer.from_pretrained(".")
said = tokenizer({prompts}, padding=True, truncation=True, return_tensors="pt")
tokens = model.generate(**said)[:, said.input_ids.shape[1] :]"""
UNPROMPTED = "tokens = model.generate()[:, 1:]"
CUT = """
`truncation=True` is of use: the transformer knows no places behind those of the longest prompt and
an image, and its stock class does not say when they end.
"""


def readme(pipeline: Pipeline, sampling: HowToSample, folder: str) -> str:
    """The text for a pipeline's folder; `folder` is where the tokenizer of tokens is in it."""
    if isinstance(pipeline, TokenPipeline):
        task = SILENT if pipeline.prompts is None else "text-to-image"
        return CARD.format(library="transformers", task=task) + _of_tokens(pipeline, folder)
    assert isinstance(sampling, Sampling)
    sampling = sampling.completed(pipeline)
    flow = FLOW if _is_flow(pipeline) else ""
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        how = f"num_inference_steps={sampling.steps}, guidance_scale={sampling.guidance}"
        layout = STABLE if _is_stable(pipeline) else OWN
        card = CARD.format(library="diffusers", task="text-to-image")
        return card + TEXT.format(prompt="a prompt", how=how) + layout + flow
    card = CARD.format(library="diffusers", task=SILENT)
    return card + UNCONDITIONAL.format(how=f"num_inference_steps={sampling.steps}") + flow


def _of_tokens(pipeline: TokenPipeline, folder: str) -> str:
    if pipeline.tokenizer.export() is None:
        return TOKENS.format(folder=folder, stock="")
    imports = [
        "from diffusers import VQModel",
        "from diffusers.image_processor import VaeImageProcessor",
        "from transformers import AutoModelForCausalLM",
    ]
    text = TOKENS.format(folder=folder, stock=", a `VQModel` of diffusers")
    drawn, cut = UNPROMPTED, ""
    if pipeline.prompts is not None:
        imports[-1] += ", AutoTokenizer"
        drawn, cut = PROMPTED.format(prompts=_examples(pipeline)), CUT
    return text + DECODED.format(imports="\n".join(imports), folder=folder, drawn=drawn) + cut


def _examples(pipeline: TokenPipeline) -> list[str]:
    """Two prompts of unequal length, or two classes."""
    if not pipeline.knows_classes:
        return ["a prompt", "another, which is longer"]
    assert pipeline.prompts is not None
    names = sorted(pipeline.prompts.get_vocab().items(), key=lambda item: item[1])
    return [name for name, i in names if 0 < i < pipeline.layout.begin][:2]


def _is_flow(pipeline: Any) -> bool:
    return pipeline.scheduler.config.get("prediction_type") == "flow_prediction"


def _is_stable(pipeline: "diffusers.StableDiffusionPipeline") -> bool:
    """Whether UNet and autoencoder both are of Stable Diffusion's layout."""
    levels = len(pipeline.vae.config.get("block_out_channels", ()))
    return is_of_stable_diffusion(pipeline.unet) and levels == 4
