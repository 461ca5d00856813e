"""Files with upsampling and argmax inside: what they say of themselves, how one is chosen, and the way back."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError
from mscsa_deploy.graphs.check import read_model, signature, to_bytes
from mscsa_deploy.graphs.foreign import adopt
from mscsa_deploy.graphs.metadata import info_of
from mscsa_deploy.graphs.pixels import take_pixels
from mscsa_deploy.graphs.tail.choose import choose_tail
from mscsa_deploy.graphs.tail.files import write_with_tail


def test_file_with_a_tail_says_so(write_segmenter, tmp_path) -> None:
    out = tmp_path / "out.onnx"

    write_with_tail(write_segmenter(tmp_path).path, "cells", out)

    model = read_model(out)
    assert signature(model)[1] == (TensorSpec("classmap", "uint8", (1, 16, 24)),)
    info = info_of(model, source="out")
    assert info is not None
    assert (info.output, info.stride, info.tail) == ("classmap", 1, "cells")


@pytest.mark.parametrize("form", ["plain", "cells"])
def test_tail_that_was_added_can_be_cut_off_again(write_segmenter, tmp_path, form) -> None:
    path, out = write_segmenter(tmp_path).path, tmp_path / "out.onnx"
    write_with_tail(path, form, out)

    adopted = adopt(out, preprocess={"height": 16, "width": 24}, rewrite=True)

    assert adopted.outputs == signature(read_model(path))[1]
    assert (adopted.changed, adopted.info.output, adopted.info.stride, adopted.info.tail) == (True, "logits", 4, "")
    assert len(list(adopted.model.graph)) == len(list(read_model(path).graph))
    untouched = adopt(path, preprocess={"height": 16, "width": 24}, rewrite=True)
    assert not untouched.changed


def test_tail_fits_a_model_that_takes_pixels(write_segmenter, tmp_path) -> None:
    path, out = write_segmenter(tmp_path).path, tmp_path / "out.onnx"
    model = read_model(path)
    take_pixels(model, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    path.write_bytes(to_bytes(model))

    write_with_tail(path, "plain", out)

    assert signature(read_model(out))[1][0].shape == (1, 16, 24)


def test_fastest_form_is_chosen(write_segmenter, tmp_path) -> None:
    path = write_segmenter(tmp_path).path
    scores = {"plain": 3.0, "cells": 1.0, "strips": 2.0}

    def score(files):
        return [scores[file.stem.split(".")[-1]] for file in files]

    choice = choose_tail(path, list(scores), score=score, folder=tmp_path)

    assert choice.form == "cells"
    assert choice.scores_ms == scores
    assert ir.load(choice.path).graph.outputs[0].name == "classmap"


def test_choosing_among_nothing_is_an_error(write_segmenter, tmp_path) -> None:
    path = write_segmenter(tmp_path).path

    with pytest.raises(StageError, match="no form"):
        choose_tail(path, [], score=lambda _: [], folder=tmp_path)
