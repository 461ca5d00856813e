"""One served model: which tensors and pictures it takes, and which answers it gives."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.decode import decode
from mscsa_deploy.imaging.overlay import overlay
from mscsa_deploy.imaging.palette import default_palette
from mscsa_deploy.imaging.preprocess import check_image, model_input
from mscsa_deploy.serving.datatypes import datatype_of
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.runner import Runner

PICTURE, PIXELS = "picture", "pixels"
CLASS_MAP, PROBABILITIES, LABEL, OVERLAY = "class_map", "probabilities", "label", "overlay"

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor as the model's metadata lists it; -1 is a free axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def plain(self) -> dict[str, Any]:
        """As the protocol writes it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's input, ready for the network.

    Args:
        tensor: (n, 3, h, w) of the network's own dtype.
        size: (height, width) that class maps come at.
        runner: The session that is to compute it.
        pixels: The pictures, each (H, W, 3) uint8; none when the tensor was given.
    """

    tensor: Array
    size: tuple[int, int]
    runner: Runner
    pixels: tuple[Array, ...] = field(default=(), repr=False)


class ServedModel:
    """One session, or two, with what the protocol says about it; used by one thread at a time.

    Args:
        runner: The loaded bundle.
        max_pixels: Largest picture, width times height.
        max_batch: Largest batch, where the artefact leaves it open.
        answering: The same network ending in a class map, for pictures of which nothing more is asked.
    """

    def __init__(self, runner: Runner, *, max_pixels: int, max_batch: int, answering: Runner | None = None) -> None:
        self.runner, self.answering = runner, answering
        self._max_pixels = max_pixels
        manifest, entry = runner.manifest, runner.candidate.entry
        self.task = manifest.task
        self.labels = manifest.labels
        self.palette = manifest.palette or default_palette(len(manifest.labels) or 256)
        self._input = entry.inputs[0]
        self._raw = next(item for item in entry.outputs if item.name == entry.postprocess.tensor)
        self._post = entry.postprocess
        self._of_class_map = {CLASS_MAP, OVERLAY} - {self._raw.name}
        self.fixed_batch = self._input.shape[0]
        self.max_batch = max_batch if self.fixed_batch < 0 else self.fixed_batch
        self.inputs = self._declare_inputs()
        self.outputs = self._declare_outputs()

    def close(self) -> None:
        """Release the sessions."""
        for runner in self._runners:
            runner.close()

    def warm_up(self) -> None:
        """Run once on zeros, so that the first request finds everything in place."""
        shape = (self.fixed_batch if self.fixed_batch > 0 else 1, *self._input.shape[1:])
        for runner in self._runners:
            runner.run(np.zeros(shape, self._input.dtype))

    def prepare(self, tensors: Mapping[str, Array], wanted: Collection[str]) -> Prepared:
        """The network's input for exactly one of the declared inputs.

        Args:
            tensors: Inputs by name.
            wanted: Names of the outputs that will be asked for, as of `answers`.

        Raises:
            Refusal: Another number of inputs, an unknown one, or one that does not fit its declaration.
        """
        known = [item.name for item in self.inputs]
        for name in tensors:
            if name not in known:
                raise Refusal(400, f"the model has no input '{name}'; it has: {', '.join(known)}")
        if len(tensors) != 1:
            raise Refusal(400, f"the request holds {len(tensors)} inputs, expected exactly one of: {', '.join(known)}")
        ((name, array),) = tensors.items()
        if name == PICTURE:
            if array.dtype != object or array.size != 1:
                raise Refusal(400, f"input '{PICTURE}' is BYTES of shape [1]: one picture file per request")
            return self.prepare_picture(array.reshape(-1)[0], wanted)
        return self._from_pixels(array, wanted) if name == PIXELS else self._from_tensor(array)

    def prepare_picture(self, data: bytes, wanted: Collection[str]) -> Prepared:
        """The network's input for a picture file; `wanted` as of `prepare`.

        Raises:
            Refusal: It is no picture of a known format (415), too large (413) or damaged (400).
        """
        self._check_picture(data)
        return self._from_images((decode(data),), wanted)

    def compute(self, tensor: Array, runner: Runner) -> Array:
        """The network's output for (n, 3, h, w); a fixed batch is filled up with zeros, or run in turns."""
        if self.fixed_batch < 0 or len(tensor) == self.fixed_batch:
            return runner.run(tensor)
        size, parts = self.fixed_batch, []
        for start in range(0, len(tensor), size):
            part = tensor[start : start + size]
            padded = np.zeros((size, *tensor.shape[1:]), tensor.dtype)
            padded[: len(part)] = part
            parts.append(runner.run(padded)[: len(part)])
        return np.concatenate(parts)

    def answers(self, prepared: Prepared, raw: Array, wanted: Sequence[str]) -> dict[str, Array]:
        """The outputs called `wanted`; without names, all that come without further work.

        Args:
            prepared: The request's input.
            raw: What its session computed for it, (n, ...).
            wanted: Names of outputs, of `outputs`.

        Raises:
            Refusal: A name is unknown, or cannot be had for this input.
            StageError: The network answered with NaN.
        """
        known = {item.name for item in self.outputs}
        for name in wanted:
            if name not in known:
                raise Refusal(400, f"the model has no output '{name}'; it has: {', '.join(sorted(known))}")
        if not wanted:
            wanted = [CLASS_MAP, self._raw.name] if self.task == "seg" else [PROBABILITIES, LABEL, self._raw.name]
        return {name: self._output(name, prepared, raw) for name in dict.fromkeys(wanted)}

    def class_map(self, prepared: Prepared, raw: Array, index: int = 0) -> Array:
        """(H, W) class numbers of one picture of the batch."""
        classes, _ = prepared.runner.answer(raw[index : index + 1], prepared.size)
        assert classes is not None
        return classes

    def overlay_png(self, prepared: Prepared, raw: Array, index: int = 0) -> bytes:
        """The picture tinted by class, as PNG."""
        if not prepared.pixels:
            raise Refusal(400, f"output '{OVERLAY}' needs the picture: send '{PICTURE}' or '{PIXELS}'")
        image = prepared.pixels[index]
        return png(overlay(image, self.class_map(prepared, raw, index), self.palette))

    def probabilities(self, raw: Array) -> Array:
        """Softmax over the classes (axis 1), float32."""
        if self._post.output == "probs":
            return raw
        shifted = np.exp(raw.astype(np.float32) - raw.max(axis=1, keepdims=True))
        total: Array = shifted / shifted.sum(axis=1, keepdims=True)
        return total

    @property
    def _runners(self) -> list[Runner]:
        return [self.runner] if self.answering is None else [self.runner, self.answering]

    def _runner_for(self, wanted: Collection[str]) -> Runner:
        """The session for `wanted` of a picture: the one that ends in a class map, where they need no more."""
        if self.answering is None or not wanted or not self._of_class_map.issuperset(wanted):
            return self.runner
        return self.answering

    def _output(self, name: str, prepared: Prepared, raw: Array) -> Array:
        count = range(len(raw))
        if name == self._raw.name:
            return raw
        if name == PROBABILITIES:
            return self.probabilities(raw)
        if name == CLASS_MAP:
            maps = [self.class_map(prepared, raw, index) for index in count]
            return maps[0][None] if len(maps) == 1 else np.stack(maps)
        if name == OVERLAY:
            return _bytes_array([self.overlay_png(prepared, raw, index) for index in count])
        best = [self.runner.answer(raw[index : index + 1], prepared.size)[1][0] for index in count]
        return _bytes_array([item.label.encode() for item in best])

    def _from_pixels(self, array: Array, wanted: Collection[str]) -> Prepared:
        images = array[None] if array.ndim == 3 else array
        if array.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise Refusal(
                400,
                f"input '{PIXELS}' is {datatype_of(array.dtype.name)} {list(array.shape)}, "
                "expected UINT8 [H, W, 3] or [N, H, W, 3], RGB",
            )
        if images[0].size // 3 > self._max_pixels:
            raise Refusal(413, f"the picture has more than {self._max_pixels} pixels; shrink it first")
        self._check_count(PIXELS, len(images))
        return self._from_images(tuple(images), wanted)

    def _from_tensor(self, array: Array) -> Prepared:
        shape = self._input.shape
        free = (-1, *shape[1:]) if self.fixed_batch < 0 else shape
        fits = array.ndim == len(shape) and array.shape[1:] == shape[1:] and shape[0] in (-1, array.shape[0])
        if array.dtype.name != self._input.dtype or not fits:
            raise Refusal(
                400,
                f"input '{self._input.name}' is {datatype_of(array.dtype.name)} {list(array.shape)}, expected "
                f"{datatype_of(self._input.dtype)} {list(free)}; for pictures there are '{PIXELS}' and '{PICTURE}'",
            )
        self._check_count(self._input.name, len(array))
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refusal(400, f"input '{self._input.name}' holds NaN or infinity")
        height, width = shape[1:3] if array.dtype == np.uint8 else shape[2:4]
        # Values far outside any picture's range overflow inside the network, which shows in its values alone.
        return Prepared(array, (int(height), int(width)), self.runner)

    def _check_count(self, name: str, count: int) -> None:
        if count > self.max_batch:
            raise Refusal(400, f"input '{name}' holds {count} pictures, expected at most {self.max_batch}")

    def _from_images(self, images: tuple[Array, ...], wanted: Collection[str]) -> Prepared:
        for image in images:
            check_image(image)
        spec = self.runner.manifest.preprocess
        tensors = [model_input(image, spec, self._input.dtype) for image in images]
        height, width = images[0].shape[:2]
        tensor = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        return Prepared(tensor, (int(height), int(width)), self._runner_for(wanted), images)

    def _check_picture(self, data: bytes) -> None:
        """Judge a picture by its first bytes, before any decoder sees the rest."""
        if not data:
            raise Refusal(400, "the picture is empty")
        if not (data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
            raise Refusal(415, f"the bytes are no picture that is read here; expected {FORMATS}")
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise Refusal(400, f"the picture is damaged: {error}; expected a whole {FORMATS} file") from None
        if width * height > self._max_pixels:
            raise Refusal(
                413, f"the picture has {width}x{height} pixels, expected at most {self._max_pixels}; shrink it"
            )

    def _declare_inputs(self) -> tuple[Declared, ...]:
        own = Declared(self._input.name, datatype_of(self._input.dtype), self._input.shape)
        if own.name in (PICTURE, PIXELS):
            raise UserError(f"the model's input is called '{own.name}', a name that this server gives to pictures")
        return (own, Declared(PIXELS, "UINT8", (-1, -1, 3)), Declared(PICTURE, "BYTES", (1,)))

    def _declare_outputs(self) -> tuple[Declared, ...]:
        raw = Declared(self._raw.name, datatype_of(self._raw.dtype), self._raw.shape)
        batch = self.fixed_batch
        if self.task == "cls":
            scores = Declared(PROBABILITIES, "FP32", self._raw.shape)
            found = [scores, Declared(LABEL, "BYTES", (batch,)), raw]
        else:
            kind = "UINT8" if len(self.labels) <= 256 else "UINT16"
            found = [Declared(CLASS_MAP, kind, (batch, -1, -1)), raw, Declared(OVERLAY, "BYTES", (batch,))]
            if self._post.output in ("logits", "logits-full"):
                found.append(Declared(PROBABILITIES, "FP32", self._raw.shape))
        return tuple({item.name: item for item in found}.values())


def png(image: Array) -> bytes:
    """An (H, W, 3) or (H, W) uint8 or uint16 picture as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _bytes_array(items: Sequence[bytes]) -> Array:
    array: Array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
