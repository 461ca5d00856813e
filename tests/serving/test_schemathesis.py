"""Requests made up from the OpenAPI description, right and wrong, in hundreds: answers are what it says.

Runs where MSCSA_DEPLOY_SCHEMATHESIS names an environment with schemathesis: ``make test-fuzz``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mscsa_deploy.serving.openapi import description

# A made-up deadline of a millisecond is a right request, and 504, or 503 where others wait, the right answer.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503", "504"]
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)


@pytest.fixture
def program(missing):
    place = os.environ.get("MSCSA_DEPLOY_SCHEMATHESIS")
    if not place:
        missing("schemathesis", "MSCSA_DEPLOY_SCHEMATHESIS names no environment with it: see 'make test-fuzz'")
    return Path(place).resolve() / "bin" / "schemathesis"


def test_made_up_requests_get_what_the_description_says(client, program, tmp_path):
    # Names that exist, besides one that does not: nearly all made-up names would be unknown.
    schema = json.loads(json.dumps(description()))
    for path in schema["paths"].values():
        for parameter in path.get("parameters", []):
            known = {"name": ["colors", "color", "nobody"], "version": ["1", "9"]}[parameter["name"]]
            parameter["schema"] = {"type": "string", "enum": known}
    (tmp_path / "openapi.json").write_text(json.dumps(schema), encoding="utf-8")
    (tmp_path / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    command = [program, "run", "openapi.json", "--url", client.url, "--checks", ",".join(CHECKS)]
    command += [
        "--max-examples",
        "40",
        "--seed",
        "7",
        "--generation-database",
        "none",
        "--no-color",
        "--warnings",
        "off",
    ]
    outcome = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    assert client.get("/v2/health/live").status == 200
