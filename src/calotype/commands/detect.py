"""What is unlike normal pictures, and where, by all scores of a tokenizer and their controls."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from calotype.commands.detect_report import UNTRAINED, Report
from calotype.commands.flags import check_counts
from calotype.commands.inspecting import Listed, listed
from calotype.commands.quiet import quiet
from calotype.pipelines import TokenPipeline
from calotype.pipelines.anything import load
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms import LPIPS
from calotype.tokenizers.terms.perceptual import PerceptualTerm
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, Precision, computing
from calotype.uses.detection import (
    Pictures,
    Rule,
    Score,
    Tried,
    check_reverse,
    learning,
    of_pixels,
    of_tokenizer,
    of_transformer,
    tried,
    with_reverse,
)
from calotype.uses.representations import untrained

Group = tuple[ImageTokenizer, dict[str, Score]]
SAME = (
    "reversed: with the same tokenizer, which was trained on the normal ones. Scores that learn "
    "nothing from normal pictures have none, as it would be about 1 - AUROC: --reverse-model names "
    "a tokenizer that was trained on the others"
)


@dataclass(frozen=True)
class Detect(Computation):
    """Pictures that are unlike normal ones, and where: by what a tokenizer rebuilds badly, by the
    density of its latents and its encoder's maps, by its codes, and by a transformer's likelihood;
    with a stated rate of false alarms, and beside raw pixels and the same tokenizer untrained.
    """

    model: str
    """Folder of a tokenizer, or of a transformer's pipeline, whose tokenizer it then is; or a name
    on the Hub."""
    normal: Path | None = None
    """Folder of normal pictures. None: train/good of --data, in MVTec AD's layout."""
    data: Path | None = None
    """Folder of pictures to judge: those in it, or in sub-folders good and one for each kind of
    defect; of MVTec AD a category, with masks in ground_truth."""
    against: Path | None = None
    """Folder of pictures that are all anomalous, in the place of --data: a part of the normal ones
    is then told from them."""
    validation: Path | None = None
    """Folder of normal pictures that the tokenizer was not trained on, for the threshold. None:
    validation/good of MVTec AD's layout, or a part of --normal."""
    held_out: float = 0.25
    """Part of --normal that is not learnt from where there is no such folder."""
    reverse_model: str | None = None
    """As --model, trained on what is anomalous, for the reverse direction. None: the same, which is
    asked by scores that learn from normal pictures alone."""
    perceptual: LPIPS | None = None
    """Also by what looks different when it is rebuilt."""
    rule: Rule = field(default_factory=Rule)
    count: int | None = None
    """Normal pictures that are learnt from, from all over the folder. None: all."""
    size: int | None = None
    """Pixels a side of the central square that is looked at; None: as the tokenizer was trained, or
    256 where it does not say."""
    precision: Precision = field(default="fp32", kw_only=True)
    """Of the networks."""
    batch_size: int = 32
    """Pictures at a time."""
    shown: int = 24
    """Pictures on the page."""
    seed: int = 0
    """Of which pictures are held out."""
    out: Path = Path("detection.html")
    """The page to write; beside it, of its name, .json with all figures and .csv with each
    picture's scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "size", "batch_size", "shown")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out is {self.held_out}: it must lie between 0 and 1")
        if self.out.is_dir() or self.out.suffix in (".json", ".csv"):
            raise ValueError(f"--out is {self.out}: name a page, such as detection.html")


def detect(options: Detect) -> Path:
    """Judge, print a table and write page, JSON and CSV; returns the page. Of several processes the
    main one does.

    Raises:
        ValueError, FileNotFoundError: there is no such model or folder, it is not clear which
            pictures are normal, or too few are.
    """
    quiet()
    return by_main(lambda: _detect(options))


def _detect(options: Detect) -> Path:
    options.warn_of_emulation()
    files = listed(options.normal, options.data, options.against, options.validation,
                   options.held_out, options.rule.false_alarm_rate, options.seed)  # fmt: skip
    if options.reverse_model is not None:
        _check_reverse(files)
    model = Model(options, options.model)
    other = model if options.reverse_model is None else Model(options, options.reverse_model)
    if other.size != model.size or other.tokenizer.mode != model.tokenizer.mode:
        raise ValueError(
            f"--reverse-model is of {other.size} pixels, {other.tokenizer.mode}, and --model of "
            f"{model.size}, {model.tokenizer.mode}: both must see the same"
        )
    term = None
    if options.perceptual is not None:
        options.perceptual.check(model.size)
        term = options.perceptual.build().to(options.place)
    pictures = files.read(model.tokenizer.mode, model.size, options.count)
    found, remarks = model.tried(pictures, term), [*files.remarks]
    try:
        turned = pictures.reversed(options.seed)
    except ValueError as error:
        remarks.append(f"not asked in reverse: {error}")
    else:
        found = with_reverse(found, other.tried(turned, term, every=other is not model))
        if other is model:
            remarks.append(SAME)
    return _reported(options, model, files, pictures, found, remarks)


def _check_reverse(files: Listed) -> None:
    try:
        check_reverse(files.test.anomalous)
    except ValueError as error:
        raise ValueError(
            f"--reverse-model: {error}; name other pictures by --data or --against, or leave it out"
        ) from error


def _reported(
    options: Detect, model: "Model", files: Listed, pictures: Pictures, found: dict[str, Tried],
    remarks: list[str],
) -> Path:  # fmt: skip
    report = Report(options.model, model.size, options.rule, files, pictures, found, remarks)
    report.show()
    return report.write(options.out, options.shown)


class Model:
    """A tokenizer, perhaps with a transformer in its codes.

    Args:
        options: Of the command.
        path: Its folder.

    Raises:
        ValueError, FileNotFoundError: there is none, or it takes no pictures of such a size.
    """

    def __init__(self, options: Detect, path: str) -> None:
        self.options = options
        loaded = load(path)
        self.pipeline = loaded.to(options.place) if isinstance(loaded, TokenPipeline) else None
        if self.pipeline is not None:
            tokenizer = self.pipeline.tokenizer
        else:
            tokenizer = loaded if isinstance(loaded, ImageTokenizer) else ImageTokenizer.load(path)
        self.tokenizer = tokenizer.to(options.place).eval()
        own = self.pipeline.size if self.pipeline is not None else \
            tokenizer.sample_size  # fmt: skip
        self.size: int = options.size or own
        tokenizer.check(self.size)
        if self.pipeline is not None:
            self.pipeline.shaped(self.size, self.size)

    def tried(
        self, pictures: Pictures, term: PerceptualTerm | None, every: bool = True
    ) -> dict[str, Tried]:
        """All scores, and the controls behind them; or of them those that learn."""
        options, found = self.options, {}
        for tokenizer, scores in self._groups(term):
            scores = scores if every else learning(scores)
            with computing(options.exactness, options.place, *tokenizer.networks):
                found |= tried(tokenizer, scores, pictures, options.rule, options.batch_size)
        return found

    def _groups(self, term: PerceptualTerm | None) -> Iterator[Group]:
        own = of_tokenizer(self.tokenizer, term)
        if self.pipeline is not None:
            own |= of_transformer(self.pipeline, self.options.exactness)
        yield self.tokenizer, own | of_pixels(self.tokenizer)
        fresh = untrained(self.tokenizer)
        yield fresh, {UNTRAINED + name: score for name, score in of_tokenizer(fresh, term).items()}
