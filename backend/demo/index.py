"""An index of small texts in memory: it finds by the words that question and text share."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import sqrt

from backend.demo.words import sentences, terms

# Everybody's, beside the shelf of each user.
PUBLIC = ""

PAGE_LETTERS = 1800
CHUNK_LETTERS = 300
TEXT_BYTES_KEPT = 256 * 1024
# Of all documents together, so that no number of uploads grows the process for long.
TEXT_LETTERS = 4 * 1024 * 1024
DOCUMENTS = 2000


class IndexFull(Exception):
    """There is no room for another document."""


@dataclass(frozen=True)
class Chunk:
    """A passage of a document, and what it is about."""

    text: str
    page: int
    # Hashes: as sets of words the terms would take twenty times the memory of the text.
    terms: array[int]

    @classmethod
    def of_text(cls, text: str, page: int) -> Chunk:
        return cls(text, page, array("q", hashes(text)))

    def likeness(self, asked: frozenset[int]) -> float:
        """From 0 to 1: how much of both is shared."""
        shared = sum(term in asked for term in self.terms)
        return shared / sqrt(len(asked) * len(self.terms)) if shared else 0.0


@dataclass(frozen=True)
class Document:
    """A document cut into passages."""

    source: str
    pages: int
    letters: int
    chunks: tuple[Chunk, ...]

    @classmethod
    def of_text(cls, source: str, text: str) -> Document:
        pages = [text[place : place + PAGE_LETTERS] for place in range(0, len(text), PAGE_LETTERS)] or [""]
        chunks = tuple(
            Chunk.of_text(passage, number)
            for number, page in enumerate(pages, start=1)
            for passage in passages(page)
        )
        return cls(source, len(pages), len(text), chunks)


@dataclass(frozen=True)
class Hit:
    """A passage that was found; `likeness` is 0 to 1."""

    chunk: Chunk
    source: str
    public: bool
    likeness: float


@dataclass
class Index:
    """The documents by owner and name."""

    shelves: dict[str, dict[str, Document]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Index {sum(len(shelf) for shelf in self.shelves.values())} documents>"

    def put(self, owner: str, document: Document) -> None:
        """Keep a document in place of the one of the same name; raise IndexFull."""
        others = [kept for kept in self._documents() if kept is not self._find(owner, document.source)]
        letters = sum(kept.letters for kept in others) + document.letters
        if len(others) >= DOCUMENTS or letters > TEXT_LETTERS:
            raise IndexFull
        self.shelves.setdefault(owner, {})[document.source] = document

    def take(self, owner: str, source: str) -> Document | None:
        """Remove a document and return it."""
        shelf = self.shelves.get(owner, {})
        document = shelf.pop(source, None)
        if not shelf:
            self.shelves.pop(owner, None)
        return document

    def sources(self, owner: str) -> list[str]:
        return sorted(self.shelves.get(owner, {}))

    def owners(self) -> list[str]:
        return sorted(owner for owner in self.shelves if owner != PUBLIC)

    def find(self, question: str, owner: str, most: int) -> list[Hit]:
        """The passages of the owner and of everybody that share most with the question, best first."""
        asked = hashes(question)
        hits = [
            Hit(chunk, document.source, shelf == PUBLIC, likeness)
            for shelf in dict.fromkeys((owner, PUBLIC))
            for document in self.shelves.get(shelf, {}).values()
            for chunk in document.chunks
            if (likeness := chunk.likeness(asked))
        ]
        return sorted(hits, key=lambda hit: -hit.likeness)[: max(0, most)]

    def _documents(self) -> Iterator[Document]:
        for shelf in self.shelves.values():
            yield from shelf.values()

    def _find(self, owner: str, source: str) -> Document | None:
        return self.shelves.get(owner, {}).get(source)


def hashes(text: str) -> frozenset[int]:
    """The terms of a text as numbers, the same for as long as the process runs."""
    return frozenset(map(hash, terms(text)))


def passages(page: str) -> Iterator[str]:
    """Put sentences together up to the length of a chunk; longer ones stand alone, cut."""
    passage = ""
    for sentence in sentences(page):
        if passage and len(passage) + len(sentence) >= CHUNK_LETTERS:
            yield passage
            passage = ""
        blank = "" if not passage or passage.endswith(("。", "！", "？")) else " "
        passage = passage + blank + sentence
        while len(passage) > CHUNK_LETTERS:
            yield passage[:CHUNK_LETTERS]
            passage = passage[CHUNK_LETTERS:]
    if passage:
        yield passage


def decoded(begin: bytes) -> str:
    """The text of a file's first bytes, the last character of which may be cut."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(begin)
    except UnicodeDecodeError:
        return codecs.getincrementaldecoder("gb18030")("replace").decode(begin)
