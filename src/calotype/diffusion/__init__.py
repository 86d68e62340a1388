"""Denoisers in latent space: what they are asked, what they are made of."""

from calotype.diffusion.adapters import Learnt, LoRA, Whole
from calotype.diffusion.objectives import (
    Denoising,
    FramedDenoising,
    LatentSource,
    TextDenoising,
)
from calotype.diffusion.processes import Epsilon, Flow, ProcessSpec, Velocity
from calotype.diffusion.scheduled import process_of, spec_of
from calotype.diffusion.schedules import LogitNormal, Uniform
from calotype.diffusion.text import LearntText, PretrainedText, TextSpec, tokenize
from calotype.diffusion.unet import (
    Frames,
    UNet,
    attend_plainly,
    check_halved,
    is_of_stable_diffusion,
    places,
)

__all__ = [
    "Denoising",
    "Epsilon",
    "Flow",
    "FramedDenoising",
    "Frames",
    "LatentSource",
    "Learnt",
    "LearntText",
    "LoRA",
    "LogitNormal",
    "PretrainedText",
    "ProcessSpec",
    "TextDenoising",
    "TextSpec",
    "UNet",
    "Uniform",
    "Velocity",
    "Whole",
    "attend_plainly",
    "check_halved",
    "is_of_stable_diffusion",
    "places",
    "process_of",
    "spec_of",
    "tokenize",
]
