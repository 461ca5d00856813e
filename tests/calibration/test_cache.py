from __future__ import annotations

import json

import pytest

from mscsa_deploy.calibration import onnxruntime as engine
from mscsa_deploy.calibration.cache import cache_path, key_of, read_ranges, write_ranges
from mscsa_deploy.calibration.onnxruntime import OnnxRuntimeQuantizer
from mscsa_deploy.calibration.source import open_source
from mscsa_deploy.errors import UserError

from .conftest import net, pictures, recipe


def test_a_second_run_takes_the_ranges_from_the_cache(net_file, samples, tmp_path, monkeypatch):
    first = OnnxRuntimeQuantizer().quantize(net_file, samples, recipe(), tmp_path / "1.onnx")

    def refuse(*_):
        raise AssertionError("calibrated twice")

    monkeypatch.setattr(engine, "collect_ranges", refuse)
    second = OnnxRuntimeQuantizer().quantize(net_file, samples, recipe(per_channel=False), tmp_path / "2.onnx")
    assert second.ranges == first.ranges


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("data", {"samples": pictures(seed=2)}),
        ("data", {"samples": pictures(5)}),
        ("method", {"recipe": recipe(observer="entropy")}),
        ("method", {"recipe": recipe(observer="percentile", percentile=99.0)}),
        ("model", {"opset": 17}),
        ("preprocessing", {"preprocessing": {"height": 64}}),
    ],
)
def test_a_stale_cache_is_refused_and_the_field_named(field, changed, net_file, samples, tmp_path):
    import onnx

    source = open_source(net_file)
    base = recipe(observer="percentile")
    kept = tmp_path / "kept.json"
    write_ranges(kept, key_of(source, samples, base), {"image": (-1.0, 1.0)})
    if "opset" in changed:
        onnx.save(net(opset=changed["opset"]), str(net_file))
        source = open_source(net_file)
    used = changed.get("samples", samples)
    if "preprocessing" in changed:
        used = type(used)(used.name, used.feed, used.indices, used.content, changed["preprocessing"])
    with pytest.raises(UserError, match=f"its {field} is"):
        read_ranges(kept, key_of(source, used, changed.get("recipe", base)))


def test_another_tool_version_is_refused(net_file, samples, tmp_path):
    key = key_of(open_source(net_file), samples, recipe())
    # Pillow's decoder decides what the pixels are.
    assert set(json.loads(key.tools)) == {"onnx", "onnxruntime", "numpy", "pillow"}
    kept = tmp_path / "kept.json"
    write_ranges(kept, key, {"image": (-1.0, 1.0)})
    assert read_ranges(kept, key) == {"image": (-1.0, 1.0)}
    content = json.loads(kept.read_text())
    content["key"]["tools"] = content["key"]["tools"].replace("onnxruntime", "onnxruntime-nightly")
    kept.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its tools is"):
        read_ranges(kept, key)


def test_a_damaged_cache_in_its_place_is_refused(net_file, samples, tmp_path):
    key = key_of(open_source(net_file), samples, recipe())
    kept = cache_path(tmp_path / "cache" / "calibration", key)
    kept.parent.mkdir(parents=True)
    kept.write_text("{")
    with pytest.raises(UserError, match="ranges-"):
        OnnxRuntimeQuantizer().quantize(net_file, samples, recipe(), tmp_path / "q.onnx")
