"""Owns what a font can draw, the one use of fontTools; lays no text out and knows no story."""

from io import BytesIO
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError

from gonbuild.errors import Problem
from gonbuild.sources import read_bytes

FONT_BYTES = 64 << 20


def font_characters(root: Path, name: str) -> tuple[frozenset[int], Problem | None]:
    """Returns the code points that a project's TTF, OTF or TTC has glyphs for, or what is wrong with the file.

    Of a collection the first font counts.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        return frozenset(), Problem(name, "is a font outside the project", "Copy it here (release.font).")
    if not path.exists():
        return frozenset(), Problem(
            name, "no such font", "Wanted the path of a TTF or OTF in the project (release.font)."
        )
    data, problem = read_bytes(path, root, FONT_BYTES)
    if problem or len(data) > FONT_BYTES:
        return frozenset(), problem or Problem(name, f"is larger than {FONT_BYTES >> 20} MiB")
    try:
        with TTFont(BytesIO(data), fontNumber=0, lazy=True) as font:
            found = frozenset(font.getBestCmap() or ())
    except Exception as e:  # a damaged font fails anywhere in its tables, with whatever they make Python raise
        said = str(e) if isinstance(e, TTLibError) else type(e).__name__
        return frozenset(), Problem(name, f"is no font that can be read: {said}", "Wanted a TTF or OTF (release.font).")
    if not found:
        return frozenset(), Problem(
            name, "has no glyph of any Unicode character", "Wanted another font (release.font)."
        )
    return found, None


def missing_glyphs(text: str, font: frozenset[int]) -> str:
    """Names each character of a text that a font cannot draw, in code point order: `'ặ' U+1EB7, 'ỡ' U+1EE1`."""
    lacking = sorted({c for c in text if ord(c) not in font})
    return ", ".join(f"'{c}' U+{ord(c):04X}" if c.isprintable() else f"U+{ord(c):04X}" for c in lacking)
