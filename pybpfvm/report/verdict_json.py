"""Verdicts as JSON: one `pybpfvm.verify/1` document an object (schemas/verify-1.json describes
it), in a list if there are several."""

from __future__ import annotations

import json

from pybpfvm.errors import SourceLine
from pybpfvm.profiles.base import CtxHolds
from pybpfvm.report.formats import Report
from pybpfvm.report.words import kind_of, verdict_name
from pybpfvm.session.judged import JudgedObject, JudgedProgram, KernelSide
from pybpfvm.session.witness_text import context_values
from pybpfvm.verifier.explaining.categories import category, problem
from pybpfvm.verifier.verdict import Finding, PathStep, Witness

SCHEMA = "pybpfvm.verify/1"

Json = dict[str, object]


def render(report: Report) -> str:
    """The document of the object, or the list of those of all."""
    documents = [document(one, report) for one in report.objects]
    body = documents[0] if len(documents) == 1 else documents
    return json.dumps(body, indent=2) + "\n"


def document(one: JudgedObject, report: Report) -> Json:
    """What is said of one object."""
    return {
        "schema": SCHEMA,
        "object": one.path,
        "sha256": one.sha256 or None,
        "abi": one.abi or None,
        "kernel": one.kernel,
        "policy": report.request.policy.value,
        "error": one.error or None,
        "complete": one.complete,
        "exit_code": one.exit_code,
        "notes": list(one.notes),
        "programs": [_program(judged, report) for judged in one.programs],
    }


def _program(judged: JudgedProgram, report: Report) -> Json:
    kind, stats = kind_of(judged), judged.verdict.stats
    found: Json = {
        "name": judged.name,
        "section": judged.section,
        "type": judged.abi or None,
        "verdict": verdict_name(judged.verdict),
        "kind": kind.value if kind is not None else None,
        "insns": stats.insns,
        "processed_insns": stats.processed_insns,
        "states": stats.states,
        "peak_states": stats.peak_states,
        "stack_depth": stats.stack_depth,
        "notes": list(judged.notes),
        "errors": [_finding(one, judged) for one in judged.findings],
        "warnings": [_finding(one, judged) for one in judged.verdict.warnings],
        "running_kernel": _kernel(judged, judged.kernel),
    }
    if report.timings:
        found["seconds"] = round(judged.seconds, 6)
    return found


def _finding(finding: Finding, judged: JudgedProgram) -> Json:
    return {
        "rule": finding.rule.value,
        "kind": finding.kind.value,
        "category": category(finding.rule),
        "problem": problem(finding.rule),
        "insn": finding.pc,
        "insn_text": judged.insns.get(finding.pc, ""),
        "source": _source(finding.source),
        "message": finding.message,
        "reason": finding.reason,
        "registers": dict(finding.registers),
        "causal_path": [_step(step) for step in finding.path],
        "suggestion": finding.suggestion,
        "feature": finding.feature or None,
        "witness": _witness(finding.witness, judged),
    }


def _source(source: SourceLine | None) -> Json | None:
    if source is None:
        return None
    return {
        "file": source.file,
        "line": source.line,
        "column": source.column,
        "text": source.text,
    }


def _step(step: PathStep) -> Json:
    return {"insn": step.pc, "source": _source(step.source), "note": step.note}


def _witness(witness: Witness | None, judged: JudgedProgram) -> Json | None:
    if witness is None:
        return None
    given = [field for field in judged.ctx_fields if field.holds is CtxHolds.GIVEN]
    return {
        "trap": witness.trap,
        "ctx": witness.ctx.hex(),
        "ctx_fields": {
            name: value if isinstance(value, int) else value.hex()
            for name, value in context_values(witness.ctx, given)
        },
        "packet": witness.packet.hex(),
        "maps": [
            {"map": name, "key": key.hex(), "value": value.hex()}
            for name, key, value in witness.maps
        ],
        "user": [{"addr": addr, "data": data.hex()} for addr, data in witness.user],
        "results": [{"helper": name, "result": result} for name, result in witness.results],
        "filled": [{"call": number, "data": data.hex()} for number, data in witness.filled],
        "seed": witness.seed,
        "insn": witness.pc,
    }


def _kernel(judged: JudgedProgram, side: KernelSide | None) -> Json | None:
    if side is None or judged.agreement is None:
        return None
    return {
        "accepted": side.accepted,
        "agreement": judged.agreement.name.lower().replace("_", "-"),
        "message": side.message,
        "errno": side.errno,
        "insn": side.pc,
        "log": side.log,
    }
