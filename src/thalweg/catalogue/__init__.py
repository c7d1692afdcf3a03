"""The catalogue: every paper of the library, looked up by slug.

One TOML entry a paper, in ``papers.toml``. A paper without a study is planned, never done.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Paper", "paper", "papers"]


@dataclass(frozen=True)
class Paper:
    """A paper and where its methods and study are.

    Attributes
    ----------
    number : int
        Its number in the catalogue.
    slug : str
        Name on the command line.
    domain : str
        Subpackage of its methods.
    year : int
        Year of publication.
    arxiv : str
        arXiv identifier, empty if there is none.
    title : str
        Title.
    use : str
        What a user does with it, in one line.
    methods : tuple of str
        Dotted names of the public functions and classes.
    study : str or None
        Dotted name of the study's module; None while it is planned.
    """

    number: int
    slug: str
    domain: str
    year: int
    arxiv: str
    title: str
    use: str
    methods: tuple[str, ...] = ()
    study: str | None = None

    @property
    def planned(self) -> bool:
        """Whether the study has yet to be written."""
        return self.study is None

    @property
    def url(self) -> str | None:
        """The paper's page on arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@cache
def papers() -> tuple[Paper, ...]:
    """Return all papers, by number.

    Examples
    --------
    >>> len(papers())
    119
    """
    text = (files(__name__) / "papers.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["paper"]
    return tuple(
        Paper(**{**entry, "methods": tuple(entry.get("methods", ()))}) for entry in entries
    )


def paper(slug: str) -> Paper:
    """Return the paper called `slug`.

    Raises
    ------
    ValueError
        If there is none; the message offers the nearest slugs.

    Examples
    --------
    >>> paper("light-sb").title
    'Light Schrödinger Bridge'
    """
    by_slug = {entry.slug: entry for entry in papers()}
    if slug in by_slug:
        return by_slug[slug]
    from difflib import get_close_matches

    near = get_close_matches(str(slug), by_slug, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "see them with: thalweg papers"
    raise ValueError(f"unknown paper {slug!r}; {hint}")
