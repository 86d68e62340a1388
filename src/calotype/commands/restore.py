"""Pictures restored by a trained tokenizer or a diffusion model, classical methods beside."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from calotype.commands.damaged import Given, Image, Pieces, batches, learnt_by, pictures_of
from calotype.commands.flags import check_counts
from calotype.commands.judging import Comparing
from calotype.commands.quiet import quiet
from calotype.commands.restored import PAGE, Files, Shown, is_own, tell
from calotype.commands.wrong import tell_wrong
from calotype.pipelines import Pipeline, checked, is_pipeline, size_of
from calotype.pipelines import load as load_pipeline
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.vector import VectorAutoencoder
from calotype.training.agreement import by_main
from calotype.training.description import describe
from calotype.training.devices import computing
from calotype.training.progress import say, track
from calotype.uses.restoration import (
    Denoise,
    Forward,
    Inpaint,
    Posterior,
    Task,
    Way,
    restore,
    tokenizer_of,
)


@dataclass(frozen=True)
class Restore(Comparing):
    """Damaged pictures restored: without noise or blur, larger, filled in where something is
    missing, or in colour. Of clean ones, spoilt here (--degrade), it says how well, beside
    classical methods.
    """

    pictures: tyro.conf.Positional[Path]
    """A picture, a folder of pictures, or a parquet file of them."""
    model: str
    """Folder of a tokenizer or of a pipeline, ours or a stock one, or a name on the Hub."""
    task: Task = field(default_factory=Denoise)
    """What became of the pictures."""
    way: Way = field(default_factory=Forward)
    """forward: once through a tokenizer that was trained by such a --corruption; optimise: a search
    for the latent that explains what is seen, with any tokenizer; posterior: a draw by a pipeline's
    diffusion model."""
    degrade: bool = False
    """The pictures are clean: spoil them as the task says, restore, and compare. All are held in
    memory with what becomes of them: --count limits them."""
    keep: bool | None = None
    """Put back what is known: the pixels around a hole, means of blocks, the luma. None: where
    there is no noise, of all but means of blocks."""
    size: int | None = None
    """Pixels a side of what is restored, of the central square. None: pictures are as large as they
    are, but for what is no whole site of the latent; of a pipeline as it draws."""
    count: int | None = None
    """Pictures, from all over the data; None: all."""
    batch_size: int = 16
    """Pictures of one shape at a time."""
    baselines: bool = True
    """Classical methods by scikit-image are shown beside: of clean pictures of all, of damaged ones
    of those on the page."""
    shown: int = 16
    """Pictures on the page."""
    seed: int = 0
    """Of the noise that clean pictures are spoilt by."""
    out: Path = Path("restored")
    """Folder of the restored pictures, the page and the figures. What another run wrote there is
    replaced, all of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "size", "batch_size", "shown")
        if not self.pictures.expanduser().exists():
            raise ValueError(f"no picture and no folder {self.pictures}")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")
        read = self.pictures.expanduser().resolve()
        if self.out.resolve() in (read, read.parent if read.is_file() else read):
            raise ValueError(f"--out is {self.out}, where the pictures are: name another folder")
        if not is_own(self.out) and (there := sorted(self.out.glob("*.png"))):
            raise ValueError(
                f"--out is {self.out}, which holds {there[0].name} and is no folder of what "
                "restore wrote: name another folder"
            )
        if self.size and self.size % self.task.shrinks:
            raise ValueError(
                f"--size is {self.size}, no multiple of --task.factor {self.task.shrinks}"
            )
        if self.baselines and find_spec("skimage") is None:
            raise ValueError(
                "the classical methods beside are scikit-image's: pip install "
                '"calotype[uses]", or choose --no-baselines'
            )


def restore_pictures(options: Restore) -> Path:
    """Restore, write pictures, page and figures; returns the page. Of several processes the main
    one does.

    Raises:
        ValueError, FileNotFoundError: there is no such model, it cannot do what is asked, or some
            pictures could not be restored, after all others were.
    """
    quiet()
    return by_main(lambda: _restore(options))


def _restore(options: Restore) -> Path:
    options.warn_of_emulation()
    model, tokenizer, size = _loaded(options)
    pieces = Pieces(options.task, options.degrade, size, tokenizer.factor, tokenizer.mode,
                    options.seed)  # fmt: skip
    pictures = pictures_of(options.pictures.expanduser(), tokenizer.mode, options.count)
    files, found, done = Files(options.out), list[tuple[Given, Image]](), 0
    wrong = dict[str, str]()
    if options.degrade and options.lpips:
        # What is asked for by name is found, or missed, before any work.
        dict(options.perceptual(256, {}))
    every = batches(pictures, pieces, options.batch_size, wrong)
    with computing(options.precision, options.place, *_networks(model)):
        for batch in track(every, "batches restored", None):
            images = _batch(options, model, batch, _going_on(options.way, done))
            done += len(batch)
            for one, image in zip(batch, images, strict=True):
                files.save(one.name, image)
                if options.degrade or len(found) < options.shown:
                    found.append((one, image[None]))
    page = tell(_shown(options), found, options.perceptual) if found else options.out / PAGE
    tell_wrong(wrong, len(pictures), "restored")
    return page


def _going_on(way: Way, done: int) -> Way:
    """With another seed for each picture, whatever the size of batches."""
    return way if isinstance(way, Forward) else replace(way, seed=way.seed + done)


def _loaded(options: Restore) -> tuple[ImageTokenizer | Pipeline, ImageTokenizer, int | None]:
    """The model, its tokenizer, and the size of what is restored.

    Raises:
        ValueError: it cannot do what is asked.
    """
    if isinstance(options.way, Posterior):
        if not is_pipeline(options.model):
            raise ValueError(
                f"way:posterior draws by a diffusion model, and {options.model} is no pipeline: "
                "give one, or choose way:optimise"
            )
        model: Any = load_pipeline(options.model)
        options.way.check(model)
        tokenizer, size = tokenizer_of(model.to(options.place)), options.size or size_of(model)
    else:
        model = tokenizer = ImageTokenizer.load(options.model).to(options.place).eval()
        vector = isinstance(tokenizer.autoencoder, VectorAutoencoder)
        size = options.size or (tokenizer.factor if vector else None)
    if size:
        tokenizer.check(size)
    if isinstance(options.way, Forward):
        _say_what_it_learnt(options)
    return model, tokenizer, size


def _say_what_it_learnt(options: Restore) -> None:
    learnt, wanted = learnt_by(options.model), [c.__name__ for c in options.task.taught_by]
    if learnt is None:
        return
    if (kind := learnt.get("type")) not in wanted:
        say(
            f"{options.model} was trained by {kind or 'no corruption'}, and this task is learnt "
            f"by {' or '.join(wanted)}: expect little of way:forward; way:optimise wants none"
        )
    elif isinstance(options.task, Inpaint) and options.task.value != (shown := learnt.get("value")):
        say(
            f"{options.model} was shown hidden pixels as {shown} in training, and now as "
            f"{options.task.value}: --task.value {shown} is what it knows"
        )


def _networks(model: Any) -> Sequence[torch.nn.Module]:
    if isinstance(model, ImageTokenizer):
        return model.networks
    return [part for part in model.components.values() if isinstance(part, torch.nn.Module)]


@torch.no_grad()
def _batch(
    options: Restore, model: ImageTokenizer | Pipeline, batch: Sequence[Given], way: Way
) -> Float[Tensor, "b c H W"]:
    """What becomes of pictures of one shape, on the CPU."""
    seen = torch.cat([each.seen for each in batch]).to(options.place)
    found = restore(model, seen, batch[0].measurement, way, options.keep)
    return checked(found.cpu()).clamp(-1, 1)


def _shown(options: Restore) -> Shown:
    """What the page says of it all."""
    return Shown(
        options.out, options.baselines, options.shown,
        {"model": options.model, "task": describe(options.task), "way": describe(options.way),
         "degraded": options.degrade, "keep": options.keep, "seed": options.seed,
         "precision": options.exactness},
    )  # fmt: skip
