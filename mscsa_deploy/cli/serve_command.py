"""`mscsa-deploy serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.cli.options import INPUT_FILE, PARALLEL, Quantity
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from mscsa_deploy.workflow.serve import Serving

MEBIBYTE = 1 << 20


@click.command("serve", epilog="Example: mscsa-deploy serve demo-out --port 8000")
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME[:VERSION]=]BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who runs it.")
@click.option(
    "--replicas", metavar="N[-M]", default="1", show_default=True, help="Ray: replicas, or a range to scale in."
)
@click.option("--runtime", help="Only this runtime (default: what the bundle recommends).")
@click.option("--precision", help="Only this precision.")
@click.option("--workers", type=PARALLEL, help="Sessions per model (default: one per core).")
@click.option("--threads", type=PARALLEL, help="Compute threads per session (default: the bundle's).")
@click.option(
    "--queue", type=click.IntRange(min=1), default=16, show_default=True, help="Waiting requests per session."
)
@click.option("--deadline", type=Quantity(min=1), default=10_000, show_default=True, help="Per request, in ms.")
@click.option("--max-batch", type=click.IntRange(min=1), default=8, show_default=True, help="If the artefact allows.")
@click.option("--batch-delay", type=Quantity(min=0), default=2, show_default=True, help="To fill one, in ms.")
@click.option(
    "--answers",
    type=click.Choice(["all", "class-maps"]),
    default="all",
    show_default=True,
    help="'class-maps': no logits or probabilities, and half the memory where the bundle has class-map files.",
)
@click.option("--max-body", type=click.IntRange(min=1), default=64, show_default=True, help="Largest body, in MiB.")
@click.option(
    "--max-pixels", type=click.IntRange(min=1), default=40_000_000, show_default=True, help="Largest picture."
)
@click.option("--token-file", type=INPUT_FILE, metavar="FILE", help="Bearer token (or set MSCSA_DEPLOY_TOKEN).")
@click.option("--tls-cert", type=INPUT_FILE, metavar="FILE", help="Certificate (PEM); speaks HTTPS.")
@click.option("--tls-key", type=INPUT_FILE, metavar="FILE", help="Its private key (PEM).")
@click.option("--access-log", type=INPUT_FILE, metavar="FILE", help="Log of requests, JSON lines; '-' is stderr.")
@click.option(
    "--grace", type=click.IntRange(min=0), default=30, show_default=True, help="Seconds to finish when stopped."
)
@common_options
def command(terminal: Terminal, bundles: tuple[str, ...], **settings: Any) -> None:
    """Serve bundles over HTTP (Open Inference Protocol v2), with a page to try them at `/`.

    A changed bundle is loaded again without losing a request. Stop with Ctrl-C or SIGTERM: what was accepted
    is finished first.
    """
    from mscsa_deploy.workflow.serve import ServeRequest, run_serve

    request = ServeRequest(
        bundles=bundles,
        engine=settings["engine"],
        replicas=_replicas(settings["replicas"]),
        token_file=settings["token_file"],
        access_log=settings["access_log"],
        listen={
            "host": settings["host"],
            "port": settings["port"],
            "tls_certificate": settings["tls_cert"],
            "tls_key": settings["tls_key"],
            "grace_seconds": settings["grace"],
        },
        work={
            "workers": settings["workers"] or 0,
            "threads": settings["threads"],
            "runtime": settings["runtime"],
            "precision": settings["precision"],
            "queue": settings["queue"],
            "deadline_ms": settings["deadline"],
            "max_batch": settings["max_batch"],
            "batch_delay_ms": settings["batch_delay"],
            "answers": settings["answers"],
        },
        limits={"body_bytes": settings["max_body"] * MEBIBYTE, "pixels": settings["max_pixels"]},
    )
    run_serve(request, lambda serving: _announce(terminal, serving))


def _announce(terminal: Terminal, serving: Serving) -> None:
    terminal.document(serving)
    terminal.say(
        *(f"{name} version {version}: {what}" for name, version, what in serving.models),
        f"serving on {serving.url} (Ctrl-C stops)",
    )
    for warning in serving.warnings:
        terminal.note(f"warning: {warning}")
    import sys

    sys.stdout.flush()


def _replicas(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal() or not 1 <= int(low) <= int(high or low):
        raise click.BadParameter(f"'{text}' is no number of replicas; expected N or N-M, e.g. 2 or 1-8")
    return int(low), int(high or low)
