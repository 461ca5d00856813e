"""How each number of a report was obtained, in words, from what the report itself records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mscsa_deploy.reporting.cells import LEGEND, SYMBOLS, UNSTABLE, count, metric_name, number, precision, runtime_title

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Report, Row


def method(report: Report) -> dict[str, str]:
    """Column by column: what it is and how it was measured; only what the report holds."""
    rows = report.rows
    notes: dict[str, str] = {}
    name = metric_name(report)
    if name:
        images = next(row.metric.images for row in rows if row.metric is not None)
        notes[name] = f"percent, over {images} evaluation images that took no part in any choice."
    if any(row.metric is not None and row.metric.drop is not None for row in rows):
        notes["Drop"] = (
            "reference minus value, in points; negative is a gain. In brackets its 95 % interval "
            "(paired bootstrap over images)."
        )
    if any(row.parity is not None for row in rows):
        notes["Agree"] = "percent of decisions that equal those of the FP32 reference on the same images."
    if any(row.latency_ms is not None for row in rows):
        notes["Latency"] = _latency(rows)
    if tails := _tails(rows):
        notes["Picture to class map"] = tails
    if any(row.speedup_vs_fp32 is not None for row in rows):
        notes["Speed-up"] = (
            "median latency of pinned FP32 of the plain export on the same runtime, over this row's; both were "
            "measured in turns, in blocks, and the bracket is the 95 % interval of the block ratios. 'vs optimized': "
            "the same over FP32 after graph optimization."
        )
    if any(row.latency_ms is not None and "op_profile" in row.details for row in rows):
        notes["Where the time goes"] = (
            "the measured median latency, divided by the shares of the runtime's own profile; a profile slows every "
            "kernel down, so its milliseconds are not used. 'To the answer' is what an end-to-end call takes beyond "
            "the network alone, such as upsampling and argmax, inside the graph or behind it."
        )
    if any(row.size_bytes is not None for row in rows):
        notes["Size"] = "of the artefact's files on disk; 1 MB is 1,000,000 bytes."
    notes["Status"] = "; ".join(f"{SYMBOLS[status]} {status}: {words}" for status, words in LEGEND.items()) + "."
    return notes


def _latency(rows: tuple[Row, ...]) -> str:
    counts = [row.latency_ms.samples for row in rows if row.latency_ms is not None]
    span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    text = (
        f"milliseconds for one call, wall clock around the blocking call only, in a process of its own after a "
        f"warm-up; {span} samples per row. A percentile is given where the samples support it; '≤' marks the "
        "early-stopping estimate of p90."
    )
    if any(row.stable is False for row in rows):
        text += f" '{UNSTABLE.strip()}' marks a row whose latency did not settle on this machine."
    return text


def _tails(rows: tuple[Row, ...]) -> str:
    """Which artefacts make the class map inside the graph, and in which form; empty if none does."""
    forms: dict[str, str] = {}
    for row in rows:
        if row.boundary == "end_to_end" and "tail" in row.details:
            forms[f"{runtime_title(row.runtime)} {precision(row)}"] = row.details["tail"]["form"]
    if not forms:
        return ""
    return (
        "upsampling and argmax run inside the graph, in the form that was fastest when measured on this device, for "
        f"{', '.join(f'{name} ({form})' for name, form in forms.items())}; for all others behind it, in the light "
        "runner. Both give the same classes but for ties up to rounding."
    )


def model_facts(report: Report) -> dict[str, str]:
    """The model in a few facts."""
    model = report.model
    if model is None:
        return {}
    facts = {
        "Model": model.name,
        "Task": {"seg": "segmentation", "cls": "classification"}.get(model.task, model.task),
        "Input": f"{model.input_size[0]}x{model.input_size[1]}" if any(model.input_size) else "",
        "Classes": str(model.classes or ""),
        "Parameters": count(model.params),
        "MACs": count(model.macs),
        "Source": model.source,
        "Checkpoint": f"sha256 {model.sha256[:16]}" if model.sha256 else "",
    }
    return {name: text for name, text in facts.items() if text}


def environment_facts(report: Report) -> dict[str, str]:
    """The device and versions, flattened to lines for people."""
    facts: dict[str, str] = {}
    for name, value in report.environment.items():
        text = _plain(name, value)
        if text:
            facts[name.replace("_", " ")] = text
    return facts


def accuracy_facts(report: Report) -> dict[str, str]:
    """Further metrics of each artefact in percent, e.g. over the named parts of the evaluation set."""
    facts: dict[str, str] = {}
    for row in report.rows:
        if row.metric is not None and row.metric.others:
            name = f"{runtime_title(row.runtime)} {precision(row)}"
            values = [f"{metric} {value:.2f}" for metric, value in row.metric.others.items()]
            facts.setdefault(name, ", ".join(values).replace("_", " "))
    return facts


def data_facts(report: Report) -> dict[str, str]:
    """The image sets, flattened likewise."""
    found = {}
    for name, value in report.data.items():
        is_set = isinstance(value, dict) and {"name", "images", "of"} <= value.keys()
        text = f"{value['images']} of the {value['of']} of '{value['name']}'" if is_set else _plain(name, value)
        if is_set and value.get("unreadable"):
            text += f", {value['unreadable']} unreadable left out"
        if text:
            found[name.replace("_", " ")] = text
    return found


def decision_facts(report: Report) -> dict[str, str]:
    """What the job decided by itself, and why."""
    facts = {}
    for made in report.decisions:
        scores = sorted(made.scores_ms.items(), key=lambda score: score[1])
        why = ", ".join(filter(None, (made.reason, *(f"{name} {number(ms)} ms" for name, ms in scores))))
        facts[made.subject] = f"{made.choice} ({why})" if why else made.choice
    return facts


def _plain(name: str, value: Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, dict):
        parts = ((key, _plain(key, item)) for key, item in value.items())
        return ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in parts if text)
    if isinstance(value, list | tuple):
        return ", ".join(_plain(name, item) for item in value)
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / (1 << 30):.1f} GiB"
    if isinstance(value, float):
        return number(value)
    return str(value)
