"""Distilling a small fast decoder from a tokenizer: the work."""

import json
import shutil
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.commands.watching import Watcher
from calotype.data import Loader, some_of
from calotype.data.identity import drawn
from calotype.mistakes import noted
from calotype.recipes.distil import DistilRecipe
from calotype.recipes.tokenizer import check_sides, shapes_of
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.tokenizers.distillation import REPORT, Distillation, Teacher, TrainedTiny
from calotype.tokenizers.readme import readme
from calotype.training import fit
from calotype.training.agreement import by_main
from calotype.training.distributed import own_device, processes
from calotype.training.division import Division, shared
from calotype.training.files import publish, room
from calotype.training.hosts import hand_out
from calotype.training.images import scaled, sent_images
from calotype.training.learner import check_compiled
from calotype.training.noise import generators
from calotype.training.portable import make_portable, written
from calotype.training.precision import seconds
from calotype.training.products import exact_products
from calotype.training.progress import say
from calotype.training.start import count, started
from calotype.training.weights import digest


def distil_decoder(recipe: DistilRecipe) -> Path:
    """Train, save and measure; returns the folder, `run.out/model`, of a stock AutoencoderTiny.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    quiet()
    shared(recipe.run.batch_size, processes().num_processes)
    size, dataset = recipe.size, recipe.data.build()
    torch.manual_seed(recipe.run.seed)
    objective = assemble_distillation(recipe, dataset)
    streamed = isinstance(dataset, IterableDataset)
    pictures = "a stream of" if streamed else str(len(dataset))  # type: ignore[arg-type]
    found = (
        f"AutoencoderTiny of {count(objective.student)}, of {recipe.teacher}; {pictures} pictures, "
        f"{shapes_of(size, recipe.transform)}"
    )
    inputs = partial(_inputs, recipe, objective, dataset)
    with started(recipe.run, recipe, inputs, found) as run:
        loader = Loader(dataset, run.batch_size, seed=run.seed, transform=recipe.transform,
                        workers=readers(run.workers, dataset))  # fmt: skip
        watcher = Watcher(recipe, found)
        fit([objective], loader, run, watcher)
        with noted(run.trained):
            by_main(lambda: _finish(objective, recipe, dataset))
        watcher.finish()
        hand_out(run.model)
    return run.model


def assemble_distillation(recipe: DistilRecipe, dataset: Dataset) -> Distillation:
    """What is trained, with the weights that it begins with.

    Raises:
        ValueError: teacher, student and pictures do not belong together.
    """
    terms = {"pixel": (recipe.pixel.weight, recipe.pixel.build())}
    if recipe.perceptual:
        recipe.perceptual.check(recipe.shortest)
        terms["lpips"] = (recipe.perceptual.weight, recipe.perceptual.build())
    tokenizer = ImageTokenizer.load(recipe.teacher).to(own_device())
    check_compiled(recipe.run.compile, len(recipe.transform.shapes) if recipe.transform else 1)
    check_sides(tokenizer, recipe.size, recipe.transform)
    tokenizer.check_mode(recipe.mode, recipe.teacher)
    student = recipe.student.build(
        tokenizer.bottleneck.z_channels, tokenizer.factor, tokenizer.mode
    )
    some = some_of(dataset, recipe.examples, recipe.transform)
    examples = [scaled(batch["image"]) for batch in some]
    made = Distillation(
        student, Teacher(tokenizer), terms, recipe.optimizer, recipe.originals, recipe.encoding,
        examples,
    )  # fmt: skip
    made.captions = ("original", "teacher", "student") * sum(map(len, examples))
    return made


def _inputs(
    recipe: DistilRecipe, objective: Distillation, dataset: Dataset
) -> dict[str, str]:  # fmt: skip
    """Fingerprints of the teacher, of a trained student, and of the pictures."""
    named: dict[str, nn.Module] = {"teacher": objective.teacher.tokenizer}
    if isinstance(recipe.student, TrainedTiny):
        named["start"] = objective.student
    weights = {name: digest(sorted(part.state_dict().items())) for name, part in named.items()}
    return {**weights, **drawn(dataset)}


@exact_products()
@torch.no_grad()
def _finish(objective: Distillation, recipe: DistilRecipe, dataset: Dataset) -> None:
    """Save, and measure what was saved."""
    model, student = recipe.run.model, objective.student
    beside = model.with_name(f".{model.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    need = sum(weight.nbytes for weight in student.parameters())
    with room(beside, model, need, "the checkpoints are as they were"):
        student.save_pretrained(beside, safe_serialization=True)
        _drop_second_name(beside / "config.json")
        report = _measured(objective, recipe, dataset)
        (beside / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        factor = objective.teacher.tokenizer.factor
        (beside / "README.md").write_text(readme(student, factor, recipe.size))
        make_portable(beside)
        publish(beside, model)
    say(
        f"PSNR {report['psnr_to_teacher_db']:.2f} dB to the teacher's pictures, "
        f"{report['psnr_db']:.2f} dB to the originals (the teacher's own: "
        f"{report['teacher_psnr_db']:.2f} dB), over {report['pictures']} pictures; decodes "
        f"{report['times_as_fast']:.1f} times as fast"
    )


def _drop_second_name(file: Path) -> None:
    """The decoder's widths stand in a config by two names: by one, which the class makes itself,
    diffusers warns whoever loads it.
    """
    config = json.loads(file.read_text())
    config.pop("block_out_channels", None)
    file.write_text(written(config))


def _measured(objective: Distillation, recipe: DistilRecipe, dataset: Dataset) -> dict[str, float]:
    teacher, student = objective.teacher, objective.student
    device, each = next(student.parameters()).device, Division.of(recipe.run, 1).measured
    values: dict[str, list[Tensor]] = {}
    latents = torch.empty(0)
    for batch in some_of(dataset, recipe.measure, recipe.transform, each):
        real = sent_images(batch["image"], device)
        latents = teacher.latents(real, generators(range(len(real))))[1]
        shown, fake = teacher.pictures(latents), student.decoder(latents)
        for name, pair in (("psnr_to_teacher_db", (fake, shown)), ("psnr_db", (fake, real)),
                           ("teacher_psnr_db", (shown, real))):  # fmt: skip
            values.setdefault(name, []).append(psnr(*pair).cpu())
    found = {name: torch.cat(parts) for name, parts in values.items()}
    slow, fast = (seconds(partial(decode, latents), device)
                  for decode in (teacher.pictures, student.decoder))  # fmt: skip
    figures = {name: each.mean().item() for name, each in found.items()}
    return {**figures, "pictures": len(found["psnr_db"]), "times_as_fast": slow / fast}
