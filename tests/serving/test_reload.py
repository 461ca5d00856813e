"""Bundles that change on disk are loaded again without a dropped request; broken ones change nothing."""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import threading
import time

import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.serving.application import Service
from mscsa_deploy.serving.repository import Place
from mscsa_deploy.serving.settings import Work

SECONDS = 30


def reloads(client):
    """How many bundles the server has loaded again."""
    text = client.get("/metrics").body.decode()
    return float(re.search(r'mscsa_deploy_reloads_total\{result="ok"\} (\S+)', text)[1])


def test_changed_bundle_is_reloaded_without_a_dropped_request(serve, tiny, tmp_path):
    place = tiny.make_bundle(tmp_path / "served", labels=("red", "green", "blue"))
    other = tiny.make_bundle(tmp_path / "other", labels=("rot", "gruen", "blau"))
    data = tiny.picture(tiny.scene(16, 16))
    answers, done = [], threading.Event()
    with serve(place, workers=2, listening={"watch_seconds": 0.05}) as client:

        def ask():
            while not done.is_set():
                answers.append(client.picture(data))

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            for count, fresh in enumerate((other, place.with_name("again")), start=1):
                time.sleep(0.3)
                if fresh != other:
                    tiny.make_bundle(fresh)
                place.rename(place.with_name(f"old-{fresh.name}"))
                shutil.copytree(fresh, place)
                end = time.monotonic() + SECONDS
                while reloads(client) < count and time.monotonic() < end:
                    time.sleep(0.05)
            time.sleep(0.3)
            done.set()
            for one in asking:
                one.result()
        counted = reloads(client)
    assert {answer.status for answer in answers} == {200}
    seen = [answer.json["classes"][0]["label"] in ("red", "green", "blue") for answer in answers]
    assert seen[0]
    assert seen[-1]
    assert not all(seen)
    assert counted == 2


def test_broken_change_keeps_the_old_bundle(serve, tiny, tmp_path, caplog):
    place = tiny.make_bundle(tmp_path / "served")
    data = tiny.picture(tiny.scene(16, 16))
    with serve(place, listening={"watch_seconds": 0.05}) as client:
        (place / "model.onnx").write_bytes(b"broken")
        (place / "manifest.json").touch()
        end = time.monotonic() + SECONDS
        while "cannot be served" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        assert client.picture(data).status == 200
        time.sleep(0.3)
        text = client.get("/metrics").body.decode()
    # the same broken bundle is tried once, not at every look
    assert 'mscsa_deploy_reloads_total{result="failed"} 1.0' in text


def test_bundle_that_is_copied_over_file_by_file_is_loaded_once_it_is_whole(serve, tiny, tmp_path, caplog):
    place = tiny.make_bundle(tmp_path / "served")
    fresh = tiny.make_bundle(tmp_path / "fresh", labels=("rot", "gruen", "blau"), batch=-1)
    with serve(place, listening={"watch_seconds": 0.05}) as client:
        for name in ("manifest.json", "README.md", "model.onnx"):
            assert client.picture(tiny.picture(tiny.scene())).json["classes"][0]["label"] == "red"
            shutil.copyfile(fresh / name, place / name)
            wait_for(lambda name=name: "cannot be served" in caplog.text or name == "model.onnx")
        wait_for(lambda: client.picture(tiny.picture(tiny.scene())).json["classes"][0]["label"] == "rot")


def test_manifest_that_does_not_fit_its_network_keeps_the_old_bundle(serve, tiny, tmp_path, caplog):
    place = tiny.make_bundle(tmp_path / "served")
    with serve(place, listening={"watch_seconds": 0.05}) as client:
        manifest = (place / "manifest.json").read_text()
        changed = re.sub(r'"task": ?"seg"', '"task": "cls"', manifest)
        assert changed != manifest
        (place / "manifest.json").write_text(changed)
        wait_for(lambda: "cannot be served" in caplog.text)
        assert "'model.onnx' answers with logits for the task cls" in caplog.text
        answer = client.picture(tiny.picture(tiny.scene()))
        assert (answer.status, answer.json["task"]) == (200, "seg")
        # and what fits is taken again
        (place / "manifest.json").write_text(manifest.replace("red", "rot"))
        wait_for(lambda: client.picture(tiny.picture(tiny.scene())).json["classes"][0]["label"] == "rot")


def test_versions_of_a_model_stay_of_one_task(serve, tiny, tmp_path, caplog):
    one, two = (tiny.make_bundle(tmp_path / name) for name in ("one", "two"))
    other = tiny.make_bundle(tmp_path / "other", task="cls")
    with serve(f"colors:1={one}", f"colors:2={two}", listening={"watch_seconds": 0.05}) as client:
        two.rename(tmp_path / "old")
        shutil.copytree(other, two)
        wait_for(lambda: "cannot be served" in caplog.text)
        assert "two bundles hold a model 'colors', for different tasks" in caplog.text
        assert client.picture(tiny.picture(tiny.scene())).json["task"] == "seg"


def test_only_version_may_come_back_with_another_task(serve, tiny, tmp_path):
    place = tiny.make_bundle(tmp_path / "served")
    other = tiny.make_bundle(tmp_path / "other", task="cls")
    with serve(place, listening={"watch_seconds": 0.05}) as client:
        place.rename(tmp_path / "old")
        shutil.copytree(other, place)
        wait_for(lambda: client.picture(tiny.picture(tiny.scene())).json["task"] == "cls")


def test_network_that_gives_no_answer_is_not_served(tiny, tmp_path, monkeypatch):
    """The manifest is sound, and what is done with the network's values fails all the same."""

    def confused(self, output, size, **more):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    place = tiny.make_bundle(tmp_path / "b", task="cls")
    monkeypatch.setattr("mscsa_deploy.runner.Runner.answer", confused)
    with pytest.raises(UserError, match=r"'model.onnx'.* give no answer \(TypeError: only 0-dimensional"):
        Service((Place(place),), Work(workers=1)).open()


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
