"""Debug information of IR that is compiled to find out where a fault was."""

from __future__ import annotations


class DebugLines:
    """Debug information of the smallest kind: the line of an access is its index + 1."""

    def __init__(self) -> None:
        self._functions: dict[str, int] = {}
        self._places: dict[tuple[str, int], int] = {}
        self._next = 20
        self._rows = [
            "!llvm.dbg.cu = !{!10}",
            "!llvm.module.flags = !{!12, !13}",
            "!10 = distinct !DICompileUnit(language: DW_LANG_C, file: !11, "
            "isOptimized: true, emissionKind: LineTablesOnly)",
            '!11 = !DIFile(filename: "program", directory: "")',
            '!12 = !{i32 2, !"Debug Info Version", i32 3}',
            '!13 = !{i32 7, !"Dwarf Version", i32 4}',
            "!14 = !DISubroutineType(types: !2)",
        ]

    def function(self, name: str) -> str:
        """What the definition of a function carries."""
        number = self._functions[name] = self._number()
        self._rows.append(
            f'!{number} = distinct !DISubprogram(name: "{name}", scope: !11, file: !11, line: 1, '
            "type: !14, unit: !10, spFlags: DISPFlagDefinition)"
        )
        return f" !dbg !{number}"

    def place(self, function: str, index: int) -> str:
        """What an access carries."""
        found = self._places.get((function, index))
        if found is None:
            found = self._places[function, index] = self._number()
            scope = self._functions[function]
            self._rows.append(f"!{found} = !DILocation(line: {index + 1}, scope: !{scope})")
        return f", !dbg !{found}"

    def metadata(self) -> str:
        """All of it, as text."""
        return "\n".join(self._rows) + "\n"

    def _number(self) -> int:
        self._next += 1
        return self._next
