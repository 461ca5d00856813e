"""Bundles that hold a network twice: pictures are answered by the file that ends in class maps, the rest is not."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.errors import UserError
from mscsa_deploy.runner import load
from mscsa_deploy.serving.settings import Work


class Counted:
    """A session that counts the pictures of each run."""

    def __init__(self, session):
        self._session = session
        self.runs = []

    def run(self, feed):
        self.runs.append(len(feed["image"]))
        return self._session.run(feed)

    def close(self):
        self._session.close()


def counted(client, model="both"):
    """The sessions of a model's only worker: of values, and of class maps."""
    served = client.repository.find(model).pool.model
    for runner in (served.runner, served.answering):
        runner.session = Counted(runner.session)
    return served.runner.session, served.answering.session


def item(array, name, datatype):
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }


def asked(client, array, name, datatype, *outputs):
    """Outputs of an inference request by name."""
    message = {"inputs": [item(array, name, datatype)]}
    if outputs:
        message["outputs"] = [{"name": output} for output in outputs]
    answer = client.infer(message, array.tobytes(), model="both")
    assert answer.status == 200, answer.error
    return {out["name"]: np.reshape(out["data"], out["shape"]) for out in answer.json["outputs"]}


@pytest.mark.parametrize("answer", ["json", "class_map", "overlay"])
def test_pictures_go_through_the_class_map_file(bundles, serve, tiny, answer):
    with serve(bundles["both"]) as client, serve(bundles["seg"]) as plain:
        values, class_maps = counted(client)
        data = tiny.picture(tiny.scene())
        found, expected = client.picture(data, answer=answer, model="both"), plain.picture(data, answer=answer)
        if answer == "json":
            assert found.json["classes"] == expected.json["classes"]
        else:
            assert found.body == expected.body
        assert (values.runs, class_maps.runs) == ([], [1])


def test_outputs_asked_for_choose_the_session(bundles, serve, tiny):
    image = tiny.scene()
    with serve(bundles["both"]) as client:
        values, class_maps = counted(client)
        alone = asked(client, image, "pixels", "UINT8", "class_map")
        assert (values.runs, class_maps.runs) == ([], [1])
        together = asked(client, image, "pixels", "UINT8", "class_map", "logits")
        every = asked(client, image, "pixels", "UINT8")
        scores = asked(client, image, "pixels", "UINT8", "probabilities")
        assert (values.runs, class_maps.runs) == ([1, 1, 1], [1])
    assert set(every) == {"class_map", "logits"}
    assert scores["probabilities"].shape == every["logits"].shape == together["logits"].shape
    with load(bundles["both"], values=True) as runner:
        expected = runner.predict(image).class_map
    for found in (alone, together, every):
        np.testing.assert_array_equal(found["class_map"][0], expected)


def test_tensors_go_through_the_values_whatever_is_asked(bundles, serve):
    tensor = np.random.default_rng(3).random((1, 3, 64, 64), dtype=np.float32)
    with serve(bundles["both"]) as client:
        values, class_maps = counted(client)
        asked(client, tensor, "image", "FP32", "class_map")
        asked(client, tensor, "image", "FP32", "logits")
        assert (values.runs, class_maps.runs) == ([1, 1], [])


def test_metadata_is_that_of_the_values_and_names_both_files(bundles, serve):
    with serve(bundles["both"]) as client, serve(f"both={bundles['batch']}") as plain:
        found, expected = (each.get("/v2/models/both").json for each in (client, plain))
    sha256 = {entry.path: entry.sha256 for entry in read_bundle(bundles["both"]).manifest.files}
    assert found["parameters"].pop("class_map_artifact_sha256") == sha256["classmap.onnx"]
    assert found["parameters"]["artifact_sha256"] == sha256["model.onnx"]
    assert found == expected


def test_each_session_gathers_its_own_batches(bundles, serve, tiny):
    # large enough that the first one keeps the worker busy until others are there
    image = np.tile(np.array([0, 255, 0], np.uint8), (800, 800, 1))
    data = tiny.picture(image)
    with serve(bundles["both"], max_batch=4, batch_delay_ms=200.0) as client:
        values, class_maps = counted(client)

        def ask(index):
            if index % 2:
                return client.picture(data, model="both").json["classes"][0]["label"]
            found = asked(client, image, "pixels", "UINT8", "probabilities")["probabilities"]
            return int(found.argmax(axis=1)[0, 0, 0])

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
    assert answers == [1, "green"] * 6
    assert sum(values.runs) == sum(class_maps.runs) == 6
    # a batch of four requests splits into one run per session; more runs than that mean that none was gathered
    assert len(values.runs) + len(class_maps.runs) < 12


def test_overload_of_pictures_is_refused_and_the_accepted_are_answered(bundles, serve, tiny):
    data = tiny.picture(np.tile(np.array([0, 255, 0], np.uint8), (800, 800, 1)))
    with serve(bundles["both"], queue=2, max_batch=1) as client:
        values, class_maps = counted(client)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: client.picture(data, model="both").status, range(32)))
    assert set(statuses) == {200, 503}
    assert len(class_maps.runs) == statuses.count(200)
    assert values.runs == []


def test_class_maps_only_holds_one_session(bundles, serve, tiny):
    with serve(bundles["both"], answers="class-maps") as client:
        assert client.repository.find("both").pool.model.answering is None
        assert client.picture(tiny.picture(tiny.scene()), model="both").status == 200
        outputs = {output["name"] for output in client.get("/v2/models/both").json["outputs"]}
        assert not outputs & {"logits", "probabilities"}
        refused = client.infer(
            {"inputs": [item(tiny.scene(), "pixels", "UINT8")], "outputs": [{"name": "logits"}]},
            tiny.scene().tobytes(),
            model="both",
        )
        assert "no output 'logits'" in refused.error


def test_unknown_answers_refused():
    with pytest.raises(UserError, match="class-maps"):
        Work(answers="masks")
