"""Copies of memory by pages, so that what did not change between two of them is kept once."""

from __future__ import annotations

import mmap

_PAGE = mmap.PAGESIZE
_CHUNK = 16 * _PAGE  # looked at in one go: below what allocators ask the system for
_ZERO = bytes(_PAGE)

# Page by page; the last one may be shorter.
Pages = tuple[bytes, ...]


def copied(view: memoryview, before: Pages | None) -> Pages:
    """The bytes of `view`. `before` is an earlier copy of as many: its pages are taken where they
    are the same, and it itself if all are."""
    pages: list[bytes] = []
    changed = before is None
    for start in range(0, len(view), _CHUNK):
        now = bytes(view[start : start + _CHUNK])
        for at in range(0, len(now), _PAGE):
            page = _ZERO if before is None else before[len(pages)]
            if not now.startswith(page, at):
                page = now[at : at + _PAGE]
                changed = True
            pages.append(page)
    return tuple(pages) if changed or before is None else before


def put_back(view: memoryview, pages: Pages) -> None:
    """Have `pages` in `view` again. Writes those that differ only: pages that nobody has written to
    yet cost the system nothing, and stay so."""
    number = 0
    for start in range(0, len(view), _CHUNK):
        now = bytes(view[start : start + _CHUNK])
        for at in range(0, len(now), _PAGE):
            page = pages[number]
            if not now.startswith(page, at):
                view[start + at : start + at + len(page)] = page
            number += 1


__all__ = ["Pages", "copied", "put_back"]
