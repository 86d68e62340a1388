"""Images from a file of prompts, one a line, shared between processes.

accelerate launch scripts/text_to_image.py --prompts prompts.txt --pipeline runs/demo/pipeline
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from calotype.pipelines import Choice, load, picture, recommended, sample
from calotype.training.distributed import processes
from calotype.training.precision import Precision


@dataclass(frozen=True)
class TextToImage:
    """Draw an image for each line of a file; line i is drawn with seed + i, on any number of
    processes.
    """

    prompts: Path
    """File of prompts, one a line."""
    pipeline: str = "runs/demo/pipeline"
    """Folder of a pipeline, or a name on the Hub."""
    precision: Precision = "auto"
    """Of the networks. auto: bf16 where the device multiplies it in hardware, else fp32."""
    out: Path = Path("generated")
    """Folder of the PNG files, named by line."""
    seed: int = 0
    """Of the first line's image."""
    sampling: Choice = field(default_factory=Choice)


def main(options: TextToImage) -> None:
    """Share the lines, draw them, save each image under its line's number."""
    if not options.prompts.is_file():
        raise ValueError(f"no file {options.prompts}: --prompts names one with a prompt a line")
    lines = list(enumerate(options.prompts.read_text(encoding="utf-8").splitlines()))
    state = processes()
    pipeline = load(options.pipeline).to(str(state.device))
    how = options.sampling.over(recommended(options.pipeline))
    sampling = replace(how, precision=options.precision)
    options.out.mkdir(parents=True, exist_ok=True)
    with state.split_between_processes(lines) as mine:
        numbers, prompts = [int(i) for i, _ in mine], [str(prompt) for _, prompt in mine]
        seeds = [options.seed + i for i in numbers]
        batches = sample(pipeline, prompts, seeds, sampling)
        images = (image for batch in batches for image in batch)
        for number, image in zip(numbers, images, strict=True):
            picture(image).save(options.out / f"{number:05d}.png")


if __name__ == "__main__":
    try:
        main(tyro.cli(TextToImage))
    except (ValueError, OSError) as error:
        print(f"text_to_image: {error}", file=sys.stderr)
        raise SystemExit(2) from None
