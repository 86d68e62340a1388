"""Images from a file of prompts, one a line, shared between processes.

accelerate launch scripts/text_to_image.py --prompts prompts.txt --pipeline runs/demo/pipeline
"""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from calotype.pipelines import Sampling, load, picture, sample
from calotype.training.distributed import processes


@dataclass(frozen=True)
class TextToImage:
    """Draw an image for each line of a file; line i is drawn with seed + i, on any number of
    processes.
    """

    prompts: Path
    pipeline: str = "runs/demo/pipeline"
    out: Path = Path("generated")
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)


def main(options: TextToImage) -> None:
    """Share the lines, draw them, save each image under its line's number."""
    state = processes()
    pipeline = load(options.pipeline).to(state.device)
    lines = list(enumerate(options.prompts.read_text().splitlines()))
    options.out.mkdir(parents=True, exist_ok=True)
    with state.split_between_processes(lines) as mine:
        numbers, prompts = [int(i) for i, _ in mine], [str(prompt) for _, prompt in mine]
        seeds = [options.seed + i for i in numbers]
        batches = sample(pipeline, prompts, seeds, options.sampling)
        images = (image for batch in batches for image in batch)
        for number, image in zip(numbers, images, strict=True):
            picture(image).save(options.out / f"{number:05d}.png")


if __name__ == "__main__":
    main(tyro.cli(TextToImage))
