"""The models that are served, by name and version; a changed bundle replaces the old without losing a request.

Everything that changes the table happens on the event loop, so a request finds either the old pool or the
new one, and the old one closes only after it has answered what it accepted.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.bundle.store import Bundle, read_bundle
from mscsa_deploy.core.files import cache_root
from mscsa_deploy.errors import DeployError, UserError, unknown_name
from mscsa_deploy.runner import load, load_answering
from mscsa_deploy.serving.model import ServedModel
from mscsa_deploy.serving.pool import Pool
from mscsa_deploy.serving.refusal import Refusal
from mscsa_deploy.serving.trial import try_out

if TYPE_CHECKING:
    from mscsa_deploy.runner import Runner
    from mscsa_deploy.serving.pool import Observer
    from mscsa_deploy.serving.settings import Limits, Work

LOG = logging.getLogger(__name__)
CLOSE_SECONDS = 0.5
"""For idle sessions to end. Whoever still computes then has had all the time that requests were given to finish."""
PLATFORM = "mscsa_deploy_bundle"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

Stamp = tuple[tuple[str, int, int, int], ...]
"""Place, time, size and inode of each file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a served version comes from.

    Args:
        path: Bundle directory or zip.
        name: To serve it under; empty takes the bundle's model name.
        version: To serve it under; empty numbers the bundles of a name from 1, in the order given.
    """

    path: Path
    name: str = ""
    version: str = ""

    @classmethod
    def of(cls, text: str) -> Place:
        """The place in ``[NAME[:VERSION]=]PATH``.

        Raises:
            UserError: The name or version is none.
        """
        head, equals, tail = text.partition("=")
        if not equals or "/" in head or Path(text).exists():
            return cls(Path(text))
        name, colon, version = head.partition(":")
        if not _NAME.fullmatch(name) or (colon and not _VERSION.fullmatch(version)):
            raise UserError(
                f"'{head}' names no model and version",
                hint="write NAME=PATH or NAME:VERSION=PATH; a name has letters, digits, '.', '_' and '-', "
                "a version is a number from 1",
            )
        return cls(Path(tail), name, version)


@dataclass(frozen=True, slots=True)
class Served:
    """One version in service.

    Args:
        name: Model name.
        version: Its version.
        place: Where it came from.
        bundle: The verified bundle.
        stamp: Of its files when it was read.
        pool: Its sessions.
    """

    name: str
    version: str
    place: Place
    bundle: Bundle
    stamp: Stamp
    pool: Pool

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """The protocol's model metadata."""
        model = self.pool.model
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": PLATFORM,
            "inputs": [item.plain for item in model.inputs],
            "outputs": [item.plain for item in model.outputs],
            "parameters": {
                "inputs": "exactly one of the inputs is sent",
                "task": model.task,
                "runtime": model.runner.candidate.runtime,
                "precision": model.runner.candidate.precision,
                "artifact_sha256": self._sha256(model.runner),
                **({"class_map_artifact_sha256": self._sha256(model.answering)} if model.answering else {}),
                "labels": list(model.labels),
            },
        }

    def _sha256(self, runner: Runner) -> str:
        wanted = runner.candidate.entry.path
        return next(entry.sha256 for entry in self.bundle.manifest.files if entry.path == wanted)


class Repository:
    """All served models.

    Args:
        places: What to serve.
        work: How many sessions each gets, and their queue.
        limits: Limits on pictures.
        observer: Of a model's and version's workers.
    """

    def __init__(
        self, places: Iterable[Place], work: Work, limits: Limits, *, observer: Callable[[str, str], Observer]
    ) -> None:
        self._work, self._limits, self._observer = work, limits, observer
        self._table: dict[str, dict[str, Served]] = {}
        self._refused: dict[Path, Stamp] = {}
        self.reloads = 0
        self.failed_reloads = 0
        self.hangs = False
        for place in places:
            self._add(place)

    def find(self, name: str, version: str = "") -> Served:
        """The served version called `version` of model `name`, without one the highest.

        Raises:
            Refusal: There is none (404).
        """
        versions = self._table.get(name)
        if versions is None:
            raise Refusal(404, str(unknown_name("model", name[:128], self._table)), reason="unknown")
        if not version:
            return versions[max(versions, key=int)]
        if version not in versions:
            known = ", ".join(self.versions(name))
            raise Refusal(404, f"model '{name}' has no version '{version[:32]}'; it has: {known}", reason="unknown")
        return versions[version]

    def versions(self, name: str) -> list[str]:
        """Versions of a model, the lowest first."""
        return sorted(self._table[name], key=int)

    def all(self) -> list[Served]:
        """Every served version."""
        return [served for versions in self._table.values() for served in versions.values()]

    async def reload_changed(self) -> None:
        """Replace each version whose bundle has changed on disk; a broken bundle changes nothing."""
        for served in self.all():
            stamp = await asyncio.to_thread(_stamp, served.place.path)
            if not stamp or stamp in (served.stamp, self._refused.get(served.place.path)):
                continue
            try:
                fresh = await asyncio.to_thread(self._open, served.place, served.name, served.version)
            except (DeployError, MemoryError) as error:
                if isinstance(error, DeployError):
                    # Until it changes again; room in memory may come by itself.
                    self._refused[served.place.path] = stamp
                self.failed_reloads += 1
                why = error if isinstance(error, DeployError) else "there is not enough memory"
                LOG.warning("'%s' changed but cannot be served, the old one stays: %s", served.place.path, why)
                continue
            self._table[served.name][served.version] = fresh
            self.reloads += 1
            LOG.warning("'%s' changed and was loaded again as %s:%s", served.place.path, served.name, served.version)
            await asyncio.to_thread(served.pool.close)

    def close(self) -> None:
        """Finish what was accepted and release all sessions; blocks, `CLOSE_SECONDS` per model that hangs."""
        closed = [served.pool.close(CLOSE_SECONDS) for served in self.all()]
        self.hangs = not all(closed)

    def _add(self, place: Place) -> None:
        bundle = read_bundle(place.path)
        name = place.name or re.sub(r"[^A-Za-z0-9._-]", "_", bundle.manifest.model.name).lstrip("._-")
        if not _NAME.fullmatch(name):
            raise UserError(f"'{place.path}' holds a model without a usable name", hint="serve it as NAME=PATH")
        versions = self._table.setdefault(name, {})
        version = place.version or str(max((int(known) for known in versions), default=0) + 1)
        if version in versions:
            raise UserError(f"version {version} of model '{name}' is served twice", hint="write NAME:VERSION=PATH")
        versions[version] = self._open(place, name, version, bundle=bundle)

    def _open(self, place: Place, name: str, version: str, *, bundle: Bundle | None = None) -> Served:
        stamp = _stamp(place.path)
        opened = bundle or read_bundle(place.path)
        others = [served for known, served in self._table.get(name, {}).items() if known != version]
        if any(served.bundle.manifest.task != opened.manifest.task for served in others):
            raise UserError(f"two bundles hold a model '{name}', for different tasks", hint="serve them as NAME=PATH")
        work = self._work
        models: list[ServedModel] = []
        try:
            models.append(self._model(opened))
            try_out(models[0])
            while len(models) < work.sessions(models[0].runner.threads):
                models.append(self._model(opened))
                models[-1].warm_up()
        except BaseException:
            for model in models:
                model.close()
            raise
        return Served(name, version, place, opened, stamp, Pool(models, work, self._observer(name, version)))

    def _model(self, bundle: Bundle) -> ServedModel:
        """One worker's session; a second one where pictures are answered sooner by a file that ends in class maps."""
        work, cache = self._work, _cache()
        every = work.answers == "all"
        runner = load(
            bundle, runtime=work.runtime, precision=work.precision, threads=work.threads, cache=cache, values=every
        )
        try:
            answering = load_answering(runner, cache=cache) if every else None
        except DeployError:
            runner.close()
            raise
        return ServedModel(runner, max_pixels=self._limits.pixels, max_batch=work.max_batch, answering=answering)


def _cache() -> Path:
    """Where compiled models are kept, so that only the first session of the first start compiles."""
    return cache_root() / "compiled"


def _stamp(path: Path) -> Stamp:
    """What changes when any file of a bundle does; empty while it is not there.

    All files, not the manifest alone: one that is copied over another file by file is refused until the last is there.
    """
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        facts = [(str(file), file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, fact.st_mtime_ns, fact.st_size, fact.st_ino) for name, fact in facts)
