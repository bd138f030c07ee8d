"""The graph as text, as SVG and in notebooks."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

import pybpfvm
from pybpfvm.cfg import Cfg, EdgeKind
from pybpfvm.cfg.layout import layout
from pybpfvm.cfg.svg import MAX_BLOCKS, svg
from pybpfvm.cfg.text import lines
from pybpfvm.cli import main
from pybpfvm.errors import SourceLine
from pybpfvm.fuzz.visible import generate, insn
from pybpfvm.listing import html_listing
from pybpfvm.objectfile import read_object
from pybpfvm.program import Program

ROOT = Path(__file__).parents[2]
BATCH = ROOT / "examples/07_batch_writer/prog.v3.bpf.o"
CALLS = ROOT / "tests/loader/data/calls.o"
SVG = "{http://www.w3.org/2000/svg}"
EVIL = '<script>alert("&")</script>\x00\x1b[31m'


def evil() -> Program:
    """A program whose names and C lines would be markup if they were not escaped."""
    made = generate(3).program
    return replace(made, name=EVIL, section=EVIL, lines={0: SourceLine(EVIL, 1, 1, EVIL)})


def boxes(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = []
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("class") == "block":
            x, y, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_svg_draws_every_block_apart_and_every_edge(seed: int) -> None:
    graph = Cfg(generate(seed).program)
    root = ElementTree.fromstring(svg([graph]))
    found = boxes(root)
    assert len(found) == len(graph.blocks)
    for i, a in enumerate(found):
        assert a[0] >= 0
        assert a[2] <= float(root.attrib["width"])
        assert a[3] <= float(root.attrib["height"])
        for b in found[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (seed, a, b)
    heads = [
        path
        for path in root.iter(f"{SVG}path")
        if "e-" in path.get("class", "") and "trunk" not in path.get("class", "")
    ]
    drawn = {kind: sum(kind in p.get("class", "") for p in heads) for kind in ("back", "call")}
    legend = [kind for kind in drawn if drawn[kind]]
    calls = sum(e.kind is EdgeKind.CALL for e in graph.edges)
    backs = sum(e.back for e in graph.edges)
    assert drawn["back"] == backs + ("back" in legend)
    assert drawn["call"] == calls + ("call" in legend)


def test_svg_holds_every_instruction_and_c_line() -> None:
    program = read_object(BATCH).programs[0]
    root = ElementTree.fromstring(svg([Cfg(program)]))
    text = "\n".join("".join(node.itertext()) for node in root.iter(f"{SVG}text"))
    numbers = {int(n.text or "") for n in root.iter(f"{SVG}tspan")}
    assert numbers == set(Cfg(program).pcs)
    assert "now->written++;" in text
    assert "now->written++;" not in svg([Cfg(program)], source=False)


def test_svg_is_self_contained() -> None:
    text = svg([Cfg(program) for program in read_object(CALLS).programs])
    assert not re.findall(r"<script|<image|@import|href=|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_names_and_c_lines_are_escaped() -> None:
    graph = Cfg(evil())
    text = svg([graph])
    ElementTree.fromstring(text)
    for shown in (text, graph._repr_html_(), html_listing(evil())):
        assert "<script" not in shown
        assert "&lt;script&gt;alert(" in shown


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_programs_and_graphs_show_themselves_in_notebooks() -> None:
    program = pybpfvm.load(BATCH, abi="iouring-v3")["batch"]
    listing = program._repr_html_()
    parser = _Balance()
    parser.feed(listing)
    assert not parser.open
    assert "io_uring_submit" in listing
    assert "now-&gt;written++;" in listing
    assert listing.count("<tr>") > len(program.program.insns)
    assert "<svg" in program.cfg._repr_html_()


def test_a_graph_too_large_is_said_to_be() -> None:
    code = (*(insn("jne64_k", 1, off=0) for _ in range(MAX_BLOCKS)), insn("exit"))
    graph = Cfg(Program("large", "test", code))
    assert "too many for a picture" in graph._repr_html_()
    assert "--cfg text" in graph._repr_html_()
    assert sum(line.startswith("┌") for line in lines(graph)) == MAX_BLOCKS + 1


def test_edges_too_long_to_be_routed_are_an_error_not_a_hang() -> None:
    random = Random(1)
    n = MAX_BLOCKS - 2
    code = [insn("jne64_k", 1, off=random.randrange(n) - i - 1) for i in range(n)]
    assert "too many long edges" in Cfg(Program("x", "test", (*code, insn("exit"))))._repr_html_()


def test_text_says_where_each_block_leads() -> None:
    text = "\n".join(lines(Cfg(read_object(BATCH).programs[0])))
    assert "· loop head  · from B2, B4 (loop)" in text
    assert "└─ ↺ B7 if taken   → B5 else" in text
    assert "; now->written++; @ ./examples/07_batch_writer/prog.bpf.c:52" in text
    one = "\n".join(lines(Cfg(read_object(CALLS).program("one"))))
    assert "└─ exit   passes each (B1) at 1   calls shared (B3) at 7" in one
    assert "┌ B1  · entry of each  · callback of B0" in one


def test_text_says_what_is_wrong_with_blocks() -> None:
    program = Program("p", "test", (insn("goto", off=1), insn("mov64_k"), insn("mov64_k")))
    text = "\n".join(lines(Cfg(program)))
    assert "┌ B1  · unreachable" in text
    assert "└─ past the end of the code" in text


def test_layers_go_down_and_layouts_keep_their_order() -> None:
    random = Random(7)
    for _ in range(50):
        n = random.randint(2, 40)
        edges = [(a, b) for b in range(1, n) for a in random.sample(range(b), min(b, 2))]
        sizes = {key: (random.uniform(20, 300), random.uniform(20, 90)) for key in range(n)}
        placed = layout(sizes, edges, 40.0)
        for a, b in edges:
            path = [placed.nodes[a], *placed.routes[a, b], placed.nodes[b]]
            assert [node.layer for node in path] == list(range(path[0].layer, path[-1].layer + 1))
        for layer in placed.layers:
            for left, right in pairwise(layer):
                assert left.x + left.width / 2 < right.x - right.width / 2


def test_the_command_writes_both(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "batch.svg"
    assert main(["disasm", str(BATCH), "--cfg", "svg", "-o", str(file)]) == 0
    assert capsys.readouterr().out == ""
    ElementTree.fromstring(file.read_text())
    assert main(["disasm", str(BATCH), "--cfg", "svg"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert main(["disasm", str(CALLS), "two", "--cfg", "text"]) == 0
    out = capsys.readouterr().out
    assert "calls leaf (B1) at 1" in out
    assert "entry of one" not in out
    assert main(["disasm", str(CALLS), "--no-source", "--cfg", "text"]) == 0
    assert "calls.c" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cfg", "png"], "invalid choice"),
        (["--cfg", "svg", "--json"], "not allowed with"),
        (["--cfg", "svg", "-o", "/nonexistent/x.svg"], "/nonexistent/x.svg"),
    ],
)
def test_bad_use(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    try:
        code = main(["disasm", str(BATCH), *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert text in capsys.readouterr().err
