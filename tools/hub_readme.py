"""The README as index pages show it, made when the package is built.

There, addresses have to be absolute. Which they are is known where a release is made, from what the
public CI says of itself; so they are written nowhere, and a fork's packages point to the fork. A
build anywhere else has no address to point to, so pictures are left out and links to files of this
repository are plain text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

README = Path(__file__).resolve().parents[1] / "README.md"
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_PICTURE_LINE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n?", re.MULTILINE)


class Repository:
    """Where the files of a release can be looked at.

    Parameters
    ----------
    server : str
        Such as ``https://github.com``.
    name : str
        ``OWNER/NAME``.
    ref : str
        Tag or commit.
    """

    def __init__(self, server: str, name: str, ref: str) -> None:
        self.page = f"{server}/{name}"
        self._files = f"{self.page}/blob/{ref}"
        self._raw = f"{self.page}/raw/{ref}"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Repository | None:
        """The repository a CI job works for; None outside of one."""
        name = environment.get("GITHUB_REPOSITORY")
        ref = environment.get("GITHUB_REF_NAME") or environment.get("GITHUB_SHA")
        if not (name and ref):
            return None
        return cls(environment.get("GITHUB_SERVER_URL", "https://github.com"), name, ref)

    def address(self, target: str, is_picture: bool) -> str:
        """Absolute address of a file, given by its path from the root."""
        return f"{self._raw if is_picture else self._files}/{target}"


def for_index(text: str, repository: Repository | None) -> str:
    """Make addresses of a README absolute, or leave out what has none.

    Parameters
    ----------
    text : str
        Markdown, in which addresses are absolute or relative to the root of the repository.
    repository : Repository, optional
        None where it is not known.

    Returns
    -------
    str
    """
    if repository is None:
        text = _PICTURE_LINE.sub("", text)

    def replaced(match: re.Match[str]) -> str:
        target, is_picture = match["target"], bool(match["picture"])
        if re.match(r"https?:|#|mailto:", target):
            return match[0]
        if repository is None:
            return match["text"]
        address = repository.address(target, is_picture)
        return f"{match['picture']}[{match['text']}]({address})"

    return _LINK.sub(replaced, text)


class CustomMetadataHook(MetadataHookInterface):
    """What hatchling asks for the description, and for addresses of the project."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what `pyproject.toml` calls dynamic."""
        repository = Repository.of(os.environ)
        text = for_index(README.read_text(encoding="utf-8"), repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = {}
        if repository is not None:
            metadata["urls"] = {
                "Source": repository.page,
                "Documentation": repository.address("docs/index.md", is_picture=False),
                "Changelog": repository.address("CHANGELOG.md", is_picture=False),
                "Issues": f"{repository.page}/issues",
            }
