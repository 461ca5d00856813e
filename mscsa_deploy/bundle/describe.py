"""A bundle in words: for `inspect`, and as the README that travels inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mscsa_deploy.bundle.fields import SCHEMA_FILE
from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.install import SOURCE, commands

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry, Manifest, Measurement, Postprocess

README_NAME = "README.md"


def summary(manifest: Manifest) -> dict[str, Any]:
    """What `inspect` tells: the manifest without hashes, recipe and environment, and the sizes."""
    plain: dict[str, Any] = to_plain(manifest)
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    for entry in plain["artifacts"]:
        entry["size_bytes"] = sum(sizes.get(path, 0) for path in (entry["path"], *entry["files"]))
    kept = ("schema_version", "model", "task", "labels", "input", "preprocess", "artifacts", "recommended")
    return {
        **{name: plain[name] for name in kept},
        "license": plain["license"],
        "files": len(sizes),
        "size_bytes": sum(sizes.values()),
    }


def readme(manifest: Manifest) -> str:
    """The README of a bundle, for whoever builds it into an app."""
    return "\n".join(
        [
            f"# {manifest.model.name} ({_task(manifest)})",
            "",
            *_warnings(manifest),
            *_use(manifest),
            *_input(manifest),
            *_output(manifest),
            *_artifacts(manifest),
            *_mobile(manifest),
            *_check(manifest),
            *_license(manifest),
        ]
    )


def _task(manifest: Manifest) -> str:
    what = "segmentation" if manifest.task == "seg" else "classification"
    return f"{what}, {len(manifest.labels)} classes"


def _warnings(manifest: Manifest) -> list[str]:
    if not manifest.model.random_weights:
        return []
    return ["**Random weights: this model was never trained. Its speed is real, its answers mean nothing.**", ""]


def _use(manifest: Manifest) -> list[str]:
    runtime = manifest.recommended.runtime if manifest.recommended else "onnxruntime"
    checkout, wheel = commands(runtime)
    return [
        "## Use it from Python",
        "",
        "```sh",
        f"{checkout}  # in a checkout of mscsa-deploy",
        f"{wheel}  # or from its wheel",
        "```",
        "",
        f"{SOURCE}.",
        "",
        "```python",
        "from mscsa_deploy.runner import load",
        "",
        'runner = load(".")  # this directory, or the zip',
        'answer = runner.predict("photo.jpg")',
        "```",
        "",
        f"Everything below is in `manifest.json`, in a form for programs; its JSON Schema is `{SCHEMA_FILE}` in a",
        "checkout of mscsa-deploy.",
        "",
    ]


def _input(manifest: Manifest) -> list[str]:
    spec, tensor = manifest.preprocess, manifest.input
    lines = [f"- {name}: {value}" for name, value in to_plain(spec).items() if value is not None]
    return [
        "## From picture to input",
        "",
        f"Tensor `{tensor.name}`, {tensor.dtype}, NCHW {'x'.join(map(str, tensor.shape))}. Decode, apply the",
        "EXIF orientation, lay transparent pixels over white, take RGB; then resize (antialiased), scale to 0..1,",
        "subtract the mean and divide by the deviation:",
        "",
        *lines,
        "",
    ]


def _output(manifest: Manifest) -> list[str]:
    if not manifest.artifacts:
        return []
    files: dict[Postprocess, list[str]] = {}
    for entry in manifest.artifacts:
        files.setdefault(entry.postprocess, []).append(f"`{entry.path}`")
    lines = ["## From output to answer", ""]
    for post, paths in files.items():
        if len(files) > 1:
            lines += [f"{', '.join(paths)}:", ""]
        lines += [*(_values(post) if manifest.task == "cls" else _steps(post)), ""]
    return lines


def _values(post: Postprocess) -> list[str]:
    last = "It already holds probabilities." if post.decide == "none" else "Softmax gives probabilities."
    return [f"Tensor `{post.tensor}` has one value per class. {last}"]


def _steps(post: Postprocess) -> list[str]:
    steps = []
    if post.upsample == "bilinear":
        steps.append(
            f"upsample bilinearly by {post.stride} to the input's size (half-pixel centers, borders repeated, float32)"
        )
    if post.decide == "argmax":
        steps.append("take the class with the largest value at each pixel, the lowest one if several are equal")
    steps.append("bring the class map to the picture's size by nearest: `floor((y + 0.5) * height / picture_height)`")
    told = "holds the number of each pixel's class, (N, H, W)" if post.output == "classmap" else f"({post.output})"
    return [
        f"Tensor `{post.tensor}` {told}. Steps:",
        "",
        *(f"{number}. {step}" for number, step in enumerate(steps, start=1)),
    ]


def _artifacts(manifest: Manifest) -> list[str]:
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    lines = [
        "## Files",
        "",
        "| file | precision | runtime | size | p50, network | p50, picture to answer | accuracy | ran as |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in manifest.artifacts:
        size = sum(sizes.get(path, 0) for path in (entry.path, *entry.files))
        lines += [_row(entry, size, found) for found in entry.measurements] or [_row(entry, size, None)]
    choice = manifest.recommended
    if choice is not None:
        lines += [
            "",
            f"Recommended where it was measured: `{choice.artifact}` on {choice.runtime}. {choice.reason}".rstrip(),
        ]
    needs = sorted({flag for entry in manifest.artifacts for flag in entry.requires})
    if needs:
        lines += ["", f"Artefacts marked as requiring {', '.join(needs)} are slower or less exact without."]
    return [*lines, ""]


def _mobile(manifest: Manifest) -> list[str]:
    made = [(entry.path, entry.mobile) for entry in manifest.artifacts if entry.mobile is not None]
    if not made:
        return []
    lines = [f"- `{files.path}`, from `{path}`; for a reduced build `{files.operators}`" for path, files in made]
    return ["## For ONNX Runtime's mobile builds", "", *lines, ""]


def _row(entry: ArtifactEntry, size: int, found: Measurement | None) -> str:
    cells = [f"`{entry.path}`", entry.precision, ", ".join(entry.runtimes), f"{size / 1e6:.2f} MB" if size else ""]
    if found is None:
        return f"| {' | '.join([*cells, '', '', '', ''])} |"
    cells[1:3] = [found.precision, f"{found.runtime} {found.runtime_version}".strip()]
    latency = f"{found.latency_ms.p50:.2f} ms" if found.latency_ms else found.status
    metric = f"{found.metric.name} {found.metric.value:.2f} %" if found.metric else ""
    times = [latency, ""] if found.boundary == "core" else ["", latency]
    return f"| {' | '.join([*cells, *times, metric, found.executed_precision])} |"


def _check(manifest: Manifest) -> list[str]:
    if manifest.golden is None:
        return []
    golden = manifest.golden
    rules = [
        f"- {precision}: at least {rule.argmax_agreement} % equal decisions"
        + ("" if rule.max_abs_over_range is None else f", values within {rule.max_abs_over_range:g} of the range")
        + f" ({rule.why})"
        for precision, rule in golden.tolerance.items()
    ]
    return [
        "## Check your implementation",
        "",
        f"`{golden.picture}` must become `{golden.input}`, and that `{golden.output}`, within:",
        "",
        *rules,
        "",
    ]


def _license(manifest: Manifest) -> list[str]:
    terms = manifest.license or "Not stated by whoever made this bundle"
    card = f" See `{manifest.model_card}`." if manifest.model_card else ""
    return ["## License", "", f"{terms.removesuffix('.')}.{card}", ""]
