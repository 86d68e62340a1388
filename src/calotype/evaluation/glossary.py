"""What the names in logs, tables and reports mean."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Better = Literal["higher", "lower", "neither"]
UNITLESS = "no unit"


@dataclass(frozen=True)
class Term:
    """A word, a figure of an evaluation, or a value in metrics.jsonl."""

    name: str
    unit: str
    better: Better
    """Which way is better, all else equal; neither: it describes, or it depends."""
    meaning: str
    """In one sentence."""


WORDS = (
    Term("tokenizer", "", "neither",
         "The network that turns a picture into a latent, and a latent back into a picture."),
    Term("generator", "", "neither",
         "The network that makes new latents, from a caption or from noise alone: a diffusion "
         "model or a transformer."),
    Term("pipeline", "", "neither",
         "A folder with all that drawing takes: generator, tokenizer, and what reads prompts."),
    Term("recipe", "", "neither",
         "A named set of everything a run is trained by; its fields are the command's flags."),
    Term("cache", "", "neither",
         "All pictures as latents or tokens, encoded once, with their captions."),
    Term("caption", "", "neither", "What is written about a picture; a prompt is one to draw by."),
    Term("step", "", "neither",
         "One change of a network's weights, after it has seen a batch of pictures."),
    Term("checkpoint", "", "neither",
         "Everything a run needs to go on from a step as if it had never stopped."),
    Term("ema", "", "neither",
         "The exponential moving average of a network's weights, which is what is exported."),
    Term("db", "decibels", "neither",
         "The unit of PSNR, a logarithm: 3 more are half the mean squared error."),
    Term("img/s", "images a second", "higher", "How many pictures training takes in."),
)  # fmt: skip

TRAINING = (
    Term("loss", UNITLESS, "lower", "The sum of all weighted terms, which training minimises."),
    Term("pixel", "weighted", "lower",
         "The difference of the reconstruction's pixels from the original's, by L1, L2, Huber or a "
         "likelihood, whichever the recipe has."),
    Term("lpips", "weighted", "lower",
         "The perceptual term of the loss: how different the reconstruction looks to a network "
         "trained to recognise objects."),
    Term("rebuildable", "weighted", "lower",
         "The squared distance of the reconstruction from what another, trained autoencoder makes "
         "of it."),
    Term("kl", "nats a pixel value, weighted", "lower",
         "How much the latents say of an image beyond a standard normal distribution, or beyond "
         "codes drawn evenly; less of it means a simpler latent space, and less detail."),
    Term("commitment", "weighted", "lower",
         "The distance of what the encoder says from the codes that are chosen for it."),
    Term("codebook", "weighted", "lower",
         "The distance of the codes from what they are chosen for, where a loss moves them."),
    Term("entropy", "nats, weighted", "lower",
         "How undecided the encoder is between codes at a site."),
    Term("codebook_entropy", "nats, weighted, negative", "lower",
         "How evenly all codes are used over a step, below zero: the lower, the more evenly."),
    Term("psnr", "dB", "higher",
         "How near reconstructed training images are to the originals: 20 dB is coarse, 30 good, "
         "40 hard to tell apart."),
    Term("psnr_alpha", "dB", "higher",
         "The same of how opaque each pixel is, where images have alpha; their psnr is that of the "
         "picture on white."),
    Term("codes_alive", "fraction of 1", "higher",
         "The part of the codebook that was chosen lately."),
    Term("perplexity", "codes", "higher",
         "As how many equally frequent codes the codes in use count; no more than the codebook "
         "has."),
    Term("temperature", UNITLESS, "neither",
         "How soft the choice between codes still is; it falls by a schedule."),
    Term("capacity", "nats an image", "neither",
         "The divergence that each image's latents are held to at this step."),
    Term("mutual_information", "nats an image", "neither",
         "The part of the divergence that is what latents say about which picture they are of; "
         "estimated, so that it may be below 0."),
    Term("total_correlation", "nats an image", "lower",
         "The part of the divergence that is what the numbers of a latent say of one another; "
         "estimated, so that it may be below 0."),
    Term("dimension_wise", "nats an image", "neither",
         "The part of the divergence that is how far each number of a latent by itself, over all "
         "pictures, is from a standard normal one."),
    Term("bits", "bits a pixel value", "lower",
         "A bound on what a picture takes to store without loss by its latent and what is left of "
         "it, where pixel is a likelihood and all of the picture counts; of counts and bits, which "
         "are relaxed while they are learnt, an estimate, of which `evaluate` tells the bound."),
    Term("labels", "weighted", "lower",
         "The squared distance of a causal latent from the true factors of the picture."),
    Term("mechanisms", "weighted", "lower",
         "The squared error of what true factors are foretold to be by those that cause them."),
    Term("sparsity", "weighted", "lower",
         "The price of the units that respond, of their activity or of its distance from a rate; "
         "of a causal latent that of its arrows, by their strength."),
    Term("active_units", "units a site", "neither",
         "How many of a sparse latent's units respond to a picture."),
    Term("dead_units", "fraction of 1", "lower",
         "The part of a sparse latent's units that responded to none of the last thousand "
         "pictures."),
    Term("contraction", "weighted", "lower",
         "How much latents change with the picture: the squared norm of their derivative."),
    Term("contrast", "weighted", "lower",
         "How hard it is to tell which other view a view's picture has, among those of all "
         "pictures of a step."),
    Term("masked", "squared, of pixel values", "lower",
         "The mean squared error of the patches that a masked autoencoder did not see."),
    Term("mean_fill", "squared, of pixel values", "neither",
         "What masked would be if each hidden patch were filled with the picture's mean colour, "
         "which is what has to be beaten."),
    Term("kl_weight", UNITLESS, "neither", "The weight of kl at this step, by a schedule."),
    Term("adversarial", "weighted", "neither",
         "What the discriminator thinks of reconstructions, as a term of the tokenizer's loss: the "
         "two play against each other, and neither's number says how good images are."),
    Term("adversarial_weight", UNITLESS, "neither",
         "The weight of the adversarial term, adaptive or fixed."),
    Term("discriminator", UNITLESS, "neither",
         "The discriminator's loss: near 0 it tells all reconstructions from originals; with a "
         "hinge it is 1 where it tells nothing."),
    Term("logits_real", UNITLESS, "neither",
         "The discriminator's mean answer for originals; positive: it takes them for originals."),
    Term("logits_fake", UNITLESS, "neither",
         "The discriminator's mean answer for reconstructions; as high as logits_real: they pass "
         "for originals."),
    Term("told_apart", "fraction of 1", "neither",
         "The part of the patches that the discriminator takes for what they are, originals or "
         "reconstructions: about 0.5 where it cannot tell, and near 1 for long where it has won."),
    Term("r1", "weighted", "lower",
         "The penalty on how steeply the discriminator's answer changes with an original."),
    Term("lecam", "weighted", "lower",
         "The penalty on discriminator answers far from their averages over time."),
    Term("denoising", UNITLESS, "lower",
         "The mean squared error of what the diffusion model predicts; most of it is noise that "
         "nothing can predict, so that small differences late in training show in images."),
    Term("text", "nats a token, weighted", "lower",
         "The cost of predicting each token of a prompt from those before it."),
    Term("image", "nats a token, weighted", "lower",
         "The cost of predicting each token of an image from its prompt and the tokens before it."),
    Term("bits_per_token", "bits", "lower",
         "What each image token costs the transformer: 0 if it always knew, log2 of the codebook's "
         "size if it knew nothing; figures of different tokenizers do not compare."),
    Term("reconstruction_gradient", "norm", "neither",
         "The length of the tokenizer's gradient before it is clipped: sudden peaks mean trouble."),
    Term("critic_gradient", "norm", "neither",
         "The length of the discriminator's gradient before it is clipped."),
    Term("denoising_gradient", "norm", "neither",
         "The length of the unconditional diffusion model's gradient before it is clipped."),
    Term("text_denoising_gradient", "norm", "neither",
         "The length of the gradient of diffusion model and text encoder before it is clipped."),
    Term("next_token_gradient", "norm", "neither",
         "The length of the transformer's gradient before it is clipped."),
)  # fmt: skip

QUALITY = (
    Term("psnr_db", "dB", "higher",
         "Peak signal-to-noise ratio of reconstructions: 20 dB is coarse, 30 good, 40 hard to tell "
         "apart; 3 dB more is half the squared error."),
    Term("pooled_psnr_db", "dB", "higher",
         "The same of the squared error of all pictures together: a mean of decibels is ruled by "
         "those that come back exactly, of which each counts 100."),
    Term("psnr_alpha_db", "dB", "higher",
         "The same of how opaque each pixel is, where images have alpha; their psnr_db is that of "
         "the picture on white."),
    Term("corrupted", "dB", "neither",
         "PSNR of pictures that are corrupted as in training: what is there to be restored."),
    Term("restored", "dB", "higher",
         "PSNR of what the tokenizer makes of corrupted pictures: well above corrupted where it "
         "restores them."),
    Term("nll_nats", "nats an image", "lower",
         "A bound on what it takes to store a picture without loss, from importance sampling: the "
         "more latents are drawn of each, the nearer to the truth."),
    Term("nll_bits_per_dim", "bits a pixel value", "lower",
         "The bound nll_nats as bits of each number of a picture, which is one of 256 levels; of "
         "black and white one of two."),
    Term("elbo_nats", "nats an image", "higher",
         "The bound that training raises, by the same latents as nll_nats: below minus that, the "
         "further the less the encoder knows of the posterior."),
    Term("ssim", "at most 1", "higher",
         "Likeness of local structure between original and reconstruction; 1: identical."),
    Term("lpips_alex", UNITLESS, "lower",
         "How different reconstructions look to AlexNet's features; below 0.1 is hard to see."),
    Term("lpips_vgg", UNITLESS, "lower",
         "How different reconstructions look to VGG's features; higher numbers than "
         "lpips_alex's, and not comparable with them."),
    Term("lpips_squeeze", UNITLESS, "lower",
         "How different reconstructions look to SqueezeNet's features."),
    Term("frechet", UNITLESS, "lower",
         "Distance between the distributions of real and made images in a network's features: FID "
         "where the network is Inception; only figures of the same count of the same pictures "
         "compare."),
    Term("precision", "fraction of 1", "higher",
         "The part of the drawn images that lie among real ones: how believable they are."),
    Term("recall", "fraction of 1", "higher",
         "The part of the real images that lie among drawn ones: how much variety is covered."),
    Term("diversity", "ratio", "higher",
         "How unlike each other the images of one prompt are: 0 where it is always the same image, "
         "1 where they differ as if the prompt said nothing."),
    Term("clip_score", "0 to 100", "higher",
         "How well images fit their prompts as CLIP sees it."),
    Term("nearest_training_ratio", "ratio", "higher",
         "How far drawn images are from the nearest training picture, beside how far unseen real "
         "ones are; well below 1: the model repeats what it was trained on."),
    Term("nearer_than_99_percent_of_real", "fraction of 1", "lower",
         "The part of the drawn images that are nearer to a training picture than 99 % of unseen "
         "real ones: copies, where it is well above 0.01."),
    Term("all_factors_right", "fraction of 1", "higher",
         "The part of the drawn scenes in which everything is as the prompt says."),
    Term("factors_right", "fraction of 1, by factor", "higher",
         "The part of the drawn scenes in which shape, colour, size, place, background or count is "
         "as the prompt says."),
    Term("two_objects_all_right", "fraction of 1", "higher",
         "As all_factors_right, for prompts with two objects, which training never showed."),
    Term("reconstruction_psnr_db", "dB", "higher",
         "As psnr_db, of scenes that were not trained on."),
    Term("unigram_bits_per_token", "bits", "neither",
         "What image tokens would cost one who knows only how frequent each code is at each place: "
         "a transformer that learnt anything is below."),
    Term("bits_per_token_without_prompt", "bits", "lower",
         "As bits_per_token, but the transformer is not told the prompt."),
    Term("bits_per_pixel", "bits", "lower",
         "The cost of an image's tokens, spread over its pixels; what the tokenizer loses is not "
         "in it."),
)  # fmt: skip

LATENTS = (
    Term("codes_used", "fraction of 1", "higher",
         "The part of the codebook that is chosen at least once over the validation pictures."),
    Term("code_use", "fraction of 1", "higher",
         "The part of the codebook that is chosen at least once over the measured pictures."),
    Term("code_perplexity", "codes", "higher",
         "As how many equally frequent codes the chosen ones count."),
    Term("latent", "channels, height, width", "neither",
         "What the tokenizer makes of an image, a small grid of numbers; in tables its shape."),
    Term("mean", "by channel", "neither",
         "Mean of each latent channel, which a tokenizer of calotype's has at 0."),
    Term("std", "by channel", "neither",
         "Standard deviation of each latent channel, which a KL tokenizer of calotype's has at 1."),
    Term("active_channels", "channels", "neither",
         "Latent channels that tell images apart; the others are near noise."),
    Term("spectrum", "fractions of 1, from coarse to fine", "neither",
         "How the variation of latents over an image is shared by four octaves of detail; much in "
         "the last is hard on a generator."),
    Term("kl_nats_per_site", "nats, by channel", "neither",
         "What each channel says at a site beyond a standard normal distribution."),
    Term("rate_bits", "bits an image", "lower",
         "What the latent of an image would take to store; of codes, all that they could say."),
)  # fmt: skip

SPEED = (
    Term("images_per_second", "images a second", "higher",
         "How many images are trained on, or drawn, on this machine."),
    Term("encode_images_per_second", "images a second", "higher",
         "How many images become latents, on this machine."),
    Term("decode_images_per_second", "images a second", "higher",
         "How many latents become images, on this machine."),
    Term("batch_size", "images", "neither", "How many images were drawn at once."),
    Term("peak_mib", "MiB", "lower", "Memory that drawing takes beside the weights."),
    Term("encode_peak_mib", "MiB", "lower", "Memory that encoding takes beside the weights."),
    Term("decode_peak_mib", "MiB", "lower", "Memory that decoding takes beside the weights."),
)  # fmt: skip

SECTIONS = {
    "Words": WORDS,
    "While training": TRAINING,
    "Quality": QUALITY,
    "Latents and codes": LATENTS,
    "Speed and memory": SPEED,
}
GLOSSARY = {term.name: term for terms in SECTIONS.values() for term in terms}
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
LEGEND = "↑ more is better, ↓ less is; `calotype explain NAME` says what a figure means."
"""What stands under a table of figures."""


def glossed(name: str) -> str:
    """A figure's name as JSON has it, with unit and direction: `psnr_db, dB ↑`. What stands behind
    a colon is a part of the figure; a name that is not in the glossary stays as it is.
    """
    term = GLOSSARY.get(name.partition(": ")[0])
    if term is None:
        return name
    unit = "" if term.unit in ("", UNITLESS) else f", {term.unit}"
    return f"{name}{unit}{ARROWS[term.better]}"


def explain(name: str) -> Term:
    """What a name means, as logs and tables write it: `psnr_db`, `psnr db`, `validation/psnr_db`.

    Raises:
        ValueError: it is in none of them; the message has the names near it.
    """
    plain = name.strip().lower().removeprefix("validation/").replace(" ", "_").replace("-", "_")
    if plain in GLOSSARY:
        return GLOSSARY[plain]
    inside = [each for each in GLOSSARY if plain in each or each in plain]
    near = inside or get_close_matches(plain, GLOSSARY, cutoff=0.6)
    hint = f"perhaps {', '.join(near[:5])}" if near else "calotype explain lists all names"
    raise ValueError(f"{name!r} is in no log or table: {hint}")


def markdown() -> str:
    """The whole glossary as a page, docs/glossary.md."""
    lines = ["# What the figures mean", "",
             "This page is `calotype explain --markdown`; `calotype explain NAME` says the same of "
             "one name.", "In metrics.jsonl, what was measured on pictures that are not trained on "
             "begins with `validation/`."]  # fmt: skip
    for title, terms in SECTIONS.items():
        lines += ["", f"## {title}", "", "| name | unit | better | meaning |", "|---|---|---|---|"]
        lines += [f"| `{t.name}` | {t.unit} | {t.better} | {t.meaning} |" for t in terms]
    return "\n".join(lines) + "\n"
