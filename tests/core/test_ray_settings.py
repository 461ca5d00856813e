"""What Ray is told: a cluster of its own lets nobody else in, another's is left as it is."""

from __future__ import annotations

import pytest

from mscsa_deploy.core.ray_settings import ray_settings, ray_variables

NAMES = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_cluster_of_its_own_asks_for_a_token(monkeypatch):
    wanted = ray_variables()
    assert (wanted["RAY_AUTH_MODE"], len(wanted["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert ray_settings()["address"] == "local"
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    # the second use in a process is for the same cluster
    assert ray_variables() == {}


def test_another_cluster_keeps_its_own_rules(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert set(ray_variables()) == {"RAY_USAGE_STATS_ENABLED"}
    assert "address" not in ray_settings()


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/token")])
def test_what_the_environment_says_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not {name, "RAY_AUTH_TOKEN"} & set(ray_variables())
