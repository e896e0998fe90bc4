#!/usr/bin/env python3
"""Draws a recorded terminal session as an SVG: terminal.py SESSION.txt > SESSION.svg

The record is what the screen showed. A line that starts with "$ " is what was typed; "# " starts a remark. ANSI colours
(`script`, or a program with colour forced on) are kept: bold, dim, and the eight foreground colours.
"""

import html
import re
import sys

FONT_SIZE = 14
CELL = 8.4  # width of one character in pixels, as textLength enforces it
LINE = 20
MARGIN = 20
BAR = 34
COLUMNS_MIN = 80

BACKGROUND, FOREGROUND, PROMPT, REMARK = "#1d1a16", "#e8dfd0", "#e0a030", "#8d8373"
COLOURS = {30: "#5b5348", 31: "#e06c5a", 32: "#9bbf65", 33: "#e0a030", 34: "#7fa6d6", 35: "#c08fc4", 36: "#7cc0b5", 37: FOREGROUND}
ESCAPE = re.compile(r"\x1b\[([0-9;]*)m|\x1b\[[0-9;?]*[A-Za-z]")


def spans(line):
    """Splits a line into (text, style) by its ANSI codes; style is the attributes of an SVG tspan."""
    if line.startswith("$ "):
        return [("$ ", f'fill="{PROMPT}"'), (line[2:], 'font-weight="bold"')]
    if line.startswith("# "):
        return [(line, f'fill="{REMARK}"')]
    found, style, at = [], {}, 0
    for code in ESCAPE.finditer(line):
        found.append((line[at : code.start()], attributes(style)))
        at = code.end()
        if code[1] is not None:
            apply(style, code[1])
    found.append((line[at:], attributes(style)))
    return [(text, attrs) for text, attrs in found if text]


def apply(style, codes):
    for code in (int(c or 0) for c in codes.split(";")):
        if code in (0, 39):
            style.clear()
        elif code == 1:
            style["font-weight"] = "bold"
        elif code == 2:
            style["opacity"] = "0.65"
        elif code in COLOURS or code - 60 in COLOURS:
            style["fill"] = COLOURS.get(code) or COLOURS[code - 60]


def attributes(style):
    return " ".join(f'{name}="{value}"' for name, value in style.items())


def draw(lines):
    """The whole picture as text."""
    columns = max([COLUMNS_MIN] + [sum(len(text) for text, _ in spans(line)) for line in lines])
    width, height = round(columns * CELL + 2 * MARGIN), BAR + len(lines) * LINE + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{html.escape(next((l for l in lines if l.startswith('$ ')), 'A terminal session'))}</title>",
        f'<rect width="{width}" height="{height}" rx="9" fill="{BACKGROUND}"/>',
    ]
    for i, colour in enumerate(["#e06c5a", "#e0a030", "#9bbf65"]):
        out.append(f'<circle cx="{MARGIN + i * 18}" cy="17" r="5.5" fill="{colour}"/>')
    out.append(
        f'<g font-family="ui-monospace, \'DejaVu Sans Mono\', Menlo, Consolas, monospace" font-size="{FONT_SIZE}" '
        f'fill="{FOREGROUND}" xml:space="preserve">'
    )
    for row, line in enumerate(lines):
        out += text_line(line, BAR + row * LINE + FONT_SIZE)
    return "\n".join(out + ["</g>", "</svg>", ""])


def text_line(line, y):
    column = 0
    for text, attrs in spans(line):
        shown = html.escape(text)
        length = f'textLength="{len(text) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
        yield f'<text x="{MARGIN + column * CELL:.1f}" y="{y}" {length} {attrs}>{shown}</text>'
        column += len(text)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = file.read().expandtabs().rstrip("\n").split("\n")
    # A progress line overwrites itself: only what stood last is kept.
    sys.stdout.write(draw([line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in lines]))


main()
