"""What a named recipe takes, before there is any data: its learners and an empty batch."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from calotype.autoregressive import Classes, Transformer
from calotype.commands.train_denoiser import settle
from calotype.commands.train_transformer import next_token
from calotype.diffusion import (
    Denoising,
    Flow,
    LatentSource,
    Learnt,
    LearntText,
    LoRA,
    PretrainedText,
    TextDenoising,
    TextSpec,
)
from calotype.diffusion.adapters import UNET as PROJECTIONS
from calotype.evaluation.needs import Needs, Rehearsal, rehearse
from calotype.lazy import diffusers, transformers
from calotype.pipelines import layout_of
from calotype.recipes.caches import CACHES
from calotype.recipes.distil import DistilRecipe
from calotype.recipes.finetune import FinetuneRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer, PretrainedDecoder, TokenizerRecipe
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import Critic, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks.causal import FACTORS, CausalBottleneck
from calotype.tokenizers.contrast import InfoNCE, Views
from calotype.tokenizers.corruptions import Corruption
from calotype.tokenizers.corruptions.base import Corrupted
from calotype.tokenizers.distillation import Distillation, Teacher
from calotype.tokenizers.encoder_terms import EncoderTerm
from calotype.tokenizers.objectives import Weighted
from calotype.tokenizers.rebuildable import RebuildableTerm
from calotype.tokenizers.terms import PerceptualTerm, Term
from calotype.tokenizers.terms.perceptual import random_backbone
from calotype.training import Objective
from calotype.training.division import Division
from calotype.training.images import CHANNELS
from calotype.training.noise import Generators

Recipe = TokenizerRecipe | GeneratorRecipe | TransformerRecipe | FinetuneRecipe | DistilRecipe
CLASSES = 1000
"""ImageNet's."""
CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
}  # fmt: skip
"""Of the text encoder of openai/clip-vit-large-patch14."""


def needs(recipe: Recipe, dtype: torch.dtype) -> Needs:
    """What training by a recipe takes, computed in `dtype` under autocast.

    A pretrained decoder or pipeline is taken to be Stable Diffusion's, a generator's tokenizer and
    prompts to be those of the named recipes that fill the folders it names.

    Raises:
        ValueError: no named recipe fills one of those folders.
    """
    return rehearse(partial(rehearsed, recipe), recipe.run, dtype)


def rehearsed(recipe: Recipe) -> Rehearsal:
    """What a recipe trains, untrained, and an empty batch.

    Raises:
        ValueError: no named recipe fills the folders of a generator, or makes a teacher.
    """
    build = {
        TokenizerRecipe: _tokenizer, GeneratorRecipe: _denoiser, TransformerRecipe: _transformer,
        FinetuneRecipe: _finetuned, DistilRecipe: _distilled,
    }[type(recipe)]  # fmt: skip
    return build(recipe)


def _tokenizer(recipe: TokenizerRecipe) -> Rehearsal:
    terms, tokenizer = _terms(recipe), _network(recipe)
    if recipe.gradient_checkpointing:
        tokenizer.enable_gradient_checkpointing()
    first = Reconstruction(
        tokenizer, terms, recipe.optimizer, corruption=_Copy() if recipe.corruption else None,
        encoder_terms={name: _emptied(term) for name, term in recipe.encoder_terms.items()},
    )  # fmt: skip
    learners: list[Objective] = [first]
    if recipe.adversary:
        learners.append(Critic(recipe.adversary, first, recipe.optimizer))
    batch = {"image": _images(recipe)}
    if isinstance(tokenizer.bottleneck, CausalBottleneck):
        batch[FACTORS] = torch.zeros(len(batch["image"]), tokenizer.bottleneck.z_channels)
    return Rehearsal(learners, {**batch, "key": _keys(recipe)})


class _Copy(Corruption):
    """What any corruption leaves, as far as memory goes. Some read what a picture contains."""

    def __call__(self, images: Tensor, generators: Generators) -> Corrupted:
        """As many numbers again, and which of them count."""
        return Corrupted(images.clone(), torch.ones_like(images[:, :1]))


class _CopiedViews(Views):
    """Views of the size of the picture, as all are; what is drawn decides how they are cropped."""

    def __call__(self, images: Tensor, generators: Generators) -> Tensor:
        """As many numbers again."""
        return images.clone()


def _emptied(term: EncoderTerm) -> EncoderTerm:
    return replace(term, views=_CopiedViews()) if isinstance(term, InfoNCE) else term


def _terms(recipe: TokenizerRecipe | DistilRecipe) -> Weighted:
    terms: dict[str, tuple[float, Term]] = {"pixel": (recipe.pixel.weight, recipe.pixel.build())}
    if spec := recipe.perceptual:
        # Which weights a backbone without contents has does not matter: none are fetched.
        terms["lpips"] = (spec.weight, PerceptualTerm(random_backbone(spec.net, 0)))
    if isinstance(recipe, TokenizerRecipe) and recipe.rebuildable:
        held = _network(_maker(recipe.rebuildable.path.removesuffix("/model") + "/model"))
        terms["rebuildable"] = (recipe.rebuildable.weight, RebuildableTerm(held))
    return terms


def _distilled(recipe: DistilRecipe) -> Rehearsal:
    tokenizer = _network(_maker(recipe.teacher))
    student = recipe.student.build(tokenizer.bottleneck.z_channels, tokenizer.factor, recipe.mode)
    objective = Distillation(student, Teacher(tokenizer), _terms(recipe), recipe.optimizer,
                             recipe.originals, recipe.encoding)  # fmt: skip
    batch = {"image": _images(recipe)}
    return Rehearsal([objective], {**batch, "key": _keys(recipe)}, [tokenizer])


def _network(recipe: TokenizerRecipe) -> ImageTokenizer:
    if not isinstance(recipe.model, PretrainedDecoder):
        return recipe.model.build(recipe.size, recipe.mode, recipe.pixel.maps)
    tokenizer = NewTokenizer().build(recipe.size)
    tokenizer.autoencoder.encoder.requires_grad_(False)
    quantised = tokenizer.autoencoder.quant_conv
    assert quantised is not None
    quantised.requires_grad_(False)
    return tokenizer


def _denoiser(recipe: GeneratorRecipe) -> Rehearsal:
    tokenizer, packed = _encoded(recipe)
    source = LatentSource(tokenizer.bottleneck, 1.0)
    shape = packed.shape[-1], tokenizer.bottleneck.z_channels
    batch = {"packed": packed, "key": _keys(recipe)}
    if recipe.text is None:
        unet = recipe.unet.unconditional(*shape)
        objective = Denoising(unet, source, recipe.process, recipe.optimizer)
    else:
        encoder = _encoder(recipe.text)
        unet = recipe.unet.conditional(*shape, encoder.config.hidden_size)
        null = torch.zeros(encoder.config.max_position_embeddings, dtype=torch.long)
        objective = TextDenoising(unet, encoder, null, source, recipe.process, recipe.optimizer)
        batch["tokens"] = null.repeat(_rows(recipe), 1)
    settle(objective, recipe.unet.places(shape[0]), recipe.gradient_checkpointing)
    return Rehearsal([objective], batch, [tokenizer])


def _finetuned(recipe: FinetuneRecipe) -> Rehearsal:
    """Of Stable Diffusion 1, on pictures of 512 pixels."""
    sites, encoder = 64, _encoder(PretrainedText())
    tokenizer = NewTokenizer().build(8 * sites)
    unet = diffusers.UNet2DConditionModel(sample_size=sites, cross_attention_dim=768)
    _prepare(recipe.learn, unet)
    null = torch.zeros(encoder.config.max_position_embeddings, dtype=torch.long)
    source = LatentSource(tokenizer.bottleneck, 1.0)
    objective = TextDenoising(unet, encoder, null, source, Flow(), recipe.optimizer)
    settle(objective, sites**2, recipe.gradient_checkpointing)
    rows = _rows(recipe)
    batch = {"packed": torch.zeros(rows, 8, sites, sites), "key": _keys(recipe),
             "tokens": null.repeat(rows, 1)}  # fmt: skip
    return Rehearsal([objective], batch, [tokenizer])


def _prepare(learn: Learnt, unet: nn.Module) -> None:
    """Let move what is learnt. peft cannot add to tensors without contents."""
    if not isinstance(learn, LoRA):
        learn.prepare(unet, None)
        return
    unet.requires_grad_(False)
    for name, layer in [*unet.named_modules()]:
        if isinstance(layer, nn.Linear) and name.endswith(PROJECTIONS):
            parent, _, own = name.rpartition(".")
            setattr(unet.get_submodule(parent), own, _Added(layer, learn.rank))


class _Added(nn.Module):
    """A layer and what LoRA adds to it."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.narrow = nn.Linear(layer.in_features, rank, bias=False)
        self.wide = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.layer(x) + self.wide(self.narrow(x))


def _encoder(text: TextSpec) -> "transformers.CLIPTextModel":
    if isinstance(text, PretrainedText):
        config = transformers.CLIPTextConfig(**CLIP_L)
        return transformers.CLIPTextModel(config).requires_grad_(False).eval()
    words = {str(i): i for i in range(text.vocabulary - 2)}
    prompts = transformers.CLIPTokenizer(words, [], model_max_length=text.length)
    return text.encoder(prompts)  # type: ignore[arg-type]


def _transformer(recipe: TransformerRecipe) -> Rehearsal:
    tokenizer, packed = _encoded(recipe)
    vocabulary, length = _prompts(recipe) if recipe.prompted else (0, 0)
    layout = layout_of(vocabulary, tokenizer, [(packed.shape[-2], packed.shape[-1])])
    assert isinstance(recipe.transformer, Transformer)
    network = recipe.transformer.build(layout, length)
    objective = next_token(recipe, network, layout)
    rows = _rows(recipe)
    batch = {"packed": packed, "key": _keys(recipe),
             "tokens": torch.zeros(rows, length, dtype=torch.long),
             "lengths": torch.full((rows,), length)}  # fmt: skip
    return Rehearsal([objective], batch, [tokenizer])


def _prompts(recipe: TransformerRecipe) -> tuple[int, int]:
    """Tokens of text that there are, and of a prompt at most."""
    for build in CACHES.values():
        if (cache := build()).out == recipe.cache:
            match cache.text:
                case LearntText(length=length, vocabulary=vocabulary):
                    return vocabulary, length
                case Classes():
                    return CLASSES, 1
    raise ValueError(f"{recipe.cache}: no named recipe of cache-latents makes prompts there")


@torch.no_grad()
def _encoded(recipe: GeneratorRecipe | TransformerRecipe) -> tuple[ImageTokenizer, Tensor]:
    """The tokenizer of the named recipe that a generator follows, and a batch as it packs it."""
    made = _maker(recipe.tokenizer)
    tokenizer = _network(made).eval()
    packed = tokenizer.pack(_images(made)[:1])
    return tokenizer, packed.repeat(_rows(recipe), *[1] * (packed.ndim - 1))


def _maker(folder: str) -> TokenizerRecipe:
    """The named recipe that leaves a tokenizer in a folder."""
    for build in TOKENIZERS.values():
        if str((made := build()).run.model) == folder:
            return made
    raise ValueError(f"{folder}: no named recipe of train-tokenizer ends there")


def _images(recipe: TokenizerRecipe | DistilRecipe) -> Tensor:
    return torch.zeros(_rows(recipe), CHANNELS[recipe.mode], recipe.size, recipe.size)


def _rows(recipe: Recipe) -> int:
    """Samples that one process takes at once."""
    return Division.of(recipe.run, 1).micro_batch


def _keys(recipe: Recipe) -> list[int]:
    return list(range(_rows(recipe)))
