"""What is looked at before a cache is made: whether it can be one."""

from itertools import chain, islice
from pathlib import Path

from torch.utils.data import Dataset

from calotype.data.cache.provenance import own_name
from calotype.data.cache.shards import made_of, written
from calotype.data.pictures import Pictures
from calotype.data.streams import Stream
from calotype.recipes.cache import CacheRecipe


def check_related(root: Path, dataset: Dataset) -> None:
    """Refuse to make of a cache one of other pictures.

    Raises:
        ValueError: none of its pictures is in the data.
    """
    if not isinstance(dataset, Pictures) or not (there := [*written(root).values()]):
        return
    found = [made_of(root, names[0]) for names in (there[0], there[len(there) // 2], there[-1])]
    known = {each.name for whole in found if whole for each in whole[1].rows}
    source = dataset.reader.source
    if known and not any(own_name(record.name, source) in known for record in dataset.records):
        raise ValueError(
            f"{root} is of other pictures, such as {min(known)}, than {source}: choose another "
            "folder, or delete this one"
        )


def check_captions(recipe: CacheRecipe, dataset: Dataset) -> None:
    """See that there are captions, and what reads them, before the work.

    Raises:
        ValueError: one of them is not.
    """
    if recipe.text is None:
        return
    recipe.text.tokenizer([])
    looked_at = _some_captions(dataset)
    if not any(looked_at):
        raise ValueError(
            f"text: none of {len(looked_at)} pictures looked at has a caption; choose text:none, "
            "or give captions as data's --help says"
        )


def _some_captions(dataset: Dataset) -> list[str]:
    """Of pictures all over a map-style dataset, or of a stream's first ones."""
    if isinstance(dataset, Stream):
        parts = (dataset.part(part) for part in range(dataset.parts))
        return [record.caption for record in islice(chain.from_iterable(parts), LOOKED_AT)]
    total = len(dataset)  # type: ignore[arg-type]
    places = range(0, total, -(-total // LOOKED_AT))
    if isinstance(dataset, Pictures):
        return [dataset.records[i].caption for i in places]  # which are not decoded for it
    return [dataset[i]["caption"] for i in places]


LOOKED_AT = 64
"""Pictures whose captions are looked for before the work."""
