"""Pictures of rare classes, made of the few that there are, and what a classifier gains by them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from calotype.pipelines import load, mode_of, reads_prompts, recommended, sample, size_of
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.images import Mode
from calotype.uses.classifiers import Classifier, Images, Labels, Logistic, is_right
from calotype.uses.resampling import TAKEN, Interpolation, Repetition, Way

Made = Float[Tensor, "k c H W"]
More = Callable[[int, Images, int, torch.Generator], Made]
"""Of a class, of which these pictures are known, so many more, in [-1, 1]."""


@torch.no_grad()
def augmented(
    tokenizer: ImageTokenizer, images: Images, count: int, way: Way | None = None,
    chance: torch.Generator | None = None, batch_size: int = 64,
) -> Made:  # fmt: skip
    """Pictures in [-1, 1] made of some of one class, by what their latents are mixed to; on their
    device. Sites of codes are taken from the one or the other.

    Raises:
        ValueError: there are none to make them of.
    """
    if not len(images):
        raise ValueError("there is no picture to make more of")
    way, chance = way or Interpolation(), chance or torch.Generator().manual_seed(0)
    device = tokenizer.weight.device
    z = torch.cat([tokenizer.latents(some.to(device)).float()
                   for some in images.split(batch_size)])  # fmt: skip
    if isinstance(way, Interpolation) and way.noise is None and z.shape[2:] == (1, 1):
        way = replace(way, noise=TAKEN)
    if isinstance(way, Interpolation) and isinstance(tokenizer.bottleneck, Discrete):
        made = way.crossed(z, count, chance)
    else:
        made = way.more(z, count, chance)
    drawn = [tokenizer.decode(some).float().clamp(-1, 1) for some in made.split(batch_size)]
    return torch.cat(drawn).to(images.device) if drawn else images[:0]


@dataclass(frozen=True)
class Drawn:
    """By a pipeline that was trained with the classes' names as captions, which knows of all the
    pictures that it has seen, and nothing of those that are given here.
    """

    pipeline: str
    """Folder of it, or a name on the Hub."""
    prompt: str = "{name}"
    """What it is asked for, of a class {name}."""

    def __post_init__(self) -> None:
        if "{name}" not in self.prompt:
            raise ValueError(f"--way.prompt is {self.prompt!r}: put {{name}} where the class is")

    def opened(self, size: int, mode: Mode, device: torch.device) -> Any:
        """The pipeline, for pictures of so many pixels a side in a mode.

        Raises:
            ValueError: there is no such pipeline, it reads no prompts, or it draws others.
        """
        pipeline = load(self.pipeline).to(device)
        if not reads_prompts(pipeline):
            raise ValueError(f"{self.pipeline} reads no prompts, so that it knows no classes")
        if (own := (size_of(pipeline), mode_of(pipeline))) != (size, mode):
            raise ValueError(
                f"{self.pipeline} draws {own[1]} of {own[0]} pixels, and the tokenizer takes "
                f"{mode} of {size}: name one for the same pictures"
            )
        return pipeline

    def maker(self, pipeline: Any, classes: Sequence[str]) -> More:
        """Draws of classes by number, by what was opened."""
        how = recommended(self.pipeline)

        def draws(label: int, few: Images, count: int, chance: torch.Generator) -> Made:
            prompts = [self.prompt.replace("{name}", classes[label])] * count
            seeds = torch.randint(2**31, (count,), generator=chance).tolist()
            found = [*sample(pipeline, prompts, seeds, how)]
            return torch.cat(found).to(few) if found else few[:0]

        return draws


@dataclass(frozen=True)
class Judge:
    """How it is found out what a classifier gains."""

    draws: int = 5
    """Choices of what is learnt from; means and deviations over them are told."""
    examples: int | None = None
    """Pictures of each rare class that are learnt from, chosen anew for each draw; None: all but
    those that are held out, which are chosen anew."""
    held_out: float = 0.25
    """Part of each class that is judged by and nothing is made of."""
    classifier: Classifier = field(default_factory=Logistic)

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"--judge.draws is {self.draws}: it must be at least 2")
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"--judge.examples is {self.examples}: it must be at least 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--judge.held-out is {self.held_out}: it must lie between 0 and 1")

    def part(self, count: int) -> int:
        """Of so many pictures of a class, those that are held out."""
        return max(1, round(self.held_out * count))

    def check(self, counts: Mapping[str, int], rare: Collection[str]) -> None:
        """Refuse classes that are too small to be held out in part and learnt from.

        Raises:
            ValueError: there is one class alone, or one is too small.
        """
        if len(counts) < 2:
            raise ValueError(f"--judge: all pictures are of one class, {next(iter(counts))!r}: two "
                             "or more are needed to tell apart")  # fmt: skip
        for name, count in counts.items():
            held, wanted = self.part(count), (self.examples or 1) if name in rare else 1
            if count - held < wanted:
                raise ValueError(
                    f"--judge: class {name!r} has {count} pictures: {held} are held out, and "
                    f"{wanted} are needed to learn from"
                )


@dataclass(frozen=True)
class Gained:
    """Parts of 1, the mean and the standard deviation over draws."""

    recall: tuple[float, float]
    """Of held-out pictures of rare classes, those that are told right."""
    overall: tuple[float, float]
    """Of all held-out pictures."""


@dataclass(frozen=True)
class Draw:
    """Pictures that are learnt from, and those that are judged by."""

    images: Images
    labels: Labels
    held: Made
    right: Int64[Tensor, " k"]


def methods(
    tokenizer: ImageTokenizer, way: Interpolation, batch_size: int = 64
) -> dict[str, More | None]:
    """What is compared: nothing, and rare pictures repeated, mixed, mixed with noise, which is
    as much as mixing takes from their deviation, and mixed in latents.
    """
    return {
        "none": None,
        "oversampling": lambda _, few, count, chance: Repetition().more(few, count, chance),
        "mixed pixels": lambda _, few, count, chance: Interpolation(way.neighbours).more(
            few, count, chance),
        "mixed pixels and noise": lambda _, few, count, chance: Interpolation(
            way.neighbours, TAKEN).more(few, count, chance).clamp(-1, 1),
        "mixed latents": lambda _, few, count, chance: augmented(
            tokenizer, few, count, way, chance, batch_size),
    }  # fmt: skip


def balanced(draw: Draw, rare: set[int], make: More, to: int, seed: int) -> Draw:
    """With so many pictures of each rare class; none is taken away."""
    images, labels = [draw.images], [draw.labels]
    for label in sorted(rare):
        few = draw.images[draw.labels == label]
        chance = torch.Generator().manual_seed(seed)
        if (count := to - len(few)) > 0:
            images.append(make(label, few, count, chance))
            labels.append(draw.labels.new_full((count,), label))
    return Draw(torch.cat(images), torch.cat(labels), draw.held, draw.right)


def gained(
    draws: Mapping[int, Draw], rare: set[int], makers: Mapping[str, More | None], to: int,
    classes: int, classifier: Classifier,
) -> dict[str, Gained]:  # fmt: skip
    """What a classifier tells right once rare classes are as large as `to`, by each maker; None:
    nothing is made. Draws are by their seeds.
    """
    return {
        name: over([judged(draw, rare, make, to, classes, classifier, seed)
                    for seed, draw in draws.items()])
        for name, make in makers.items()
    }  # fmt: skip


def judged(
    draw: Draw, rare: set[int], make: More | None, to: int, classes: int, classifier: Classifier,
    seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Parts of 1 that are told right in one draw: of rare classes, and of all."""
    known = draw if make is None else balanced(draw, rare, make, to, seed)
    model = classifier.learn(known.images, known.labels, classes, seed)
    right = is_right(model, draw.held, draw.right)
    among = torch.isin(draw.right, torch.tensor(sorted(rare)).to(draw.right))
    return right[among].mean().item(), right.mean().item()


def over(parts: Sequence[tuple[float, float]]) -> Gained:
    """Of two draws or more."""
    recall, overall = torch.tensor(parts).T
    return Gained((recall.mean().item(), recall.std().item()),
                  (overall.mean().item(), overall.std().item()))  # fmt: skip


def drawn(images: Images, labels: Labels, rare: set[int], judge: Judge, seed: int) -> Draw:
    """What is learnt from and judged by in one draw: a part of each class is held out, and of rare
    classes so many of the others are kept as the judge says.

    Raises:
        ValueError: a rare class has too few pictures for it.
    """
    chance = torch.Generator().manual_seed(seed)
    learnt, held = list[Int64[Tensor, " _"]](), list[Int64[Tensor, " _"]]()
    for label in labels.unique().tolist():
        places = (labels == label).nonzero()[:, 0]
        places = places[torch.randperm(len(places), generator=chance).to(places.device)]
        count = judge.part(len(places))
        kept = places[count:]
        if label in rare and judge.examples is not None:
            kept = kept[: judge.examples]
        wanted = judge.examples or 1
        if label in rare and len(kept) < wanted:
            raise ValueError(f"a rare class has {len(places)} pictures: {count} are held out, and "
                             f"{wanted} are needed to learn from")  # fmt: skip
        held.append(places[:count])
        learnt.append(kept)
    own, other = torch.cat(learnt), torch.cat(held)
    return Draw(images[own], labels[own], images[other], labels[other])
