"""What a name in a log or a table means."""

from dataclasses import dataclass

import tyro

from calotype.evaluation.glossary import SECTIONS, Term, explain, markdown


@dataclass(frozen=True)
class Explain:
    """Say what figures in tables and terms in logs mean: unit, which way is better, and why."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """As they stand there, such as psnr_db or perplexity; none: all of them."""
    markdown: bool = False
    """All of them as a page."""


def explain_names(options: Explain) -> None:
    """Print.

    Raises:
        ValueError: a name is in no log or table.
    """
    if options.markdown:
        print(markdown(), end="")
        return
    if options.names:
        print("\n\n".join(map(_said, map(explain, options.names))))
        return
    for title, terms in SECTIONS.items():
        print(f"{title}\n")
        print("\n".join(map(_said, terms)), end="\n\n")


def _said(term: Term) -> str:
    better = "" if term.better == "neither" else f"; {term.better} is better"
    return f"{term.name}{f' ({term.unit})' if term.unit else ''}{better}\n  {term.meaning}"
