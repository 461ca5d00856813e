"""Reading a report back, and writing it with all its views."""

from __future__ import annotations

import json
from pathlib import Path

from mscsa_deploy.core.config import convert, to_json
from mscsa_deploy.core.report import SCHEMA, Report
from mscsa_deploy.errors import UserError
from mscsa_deploy.reporting.delimited import to_csv
from mscsa_deploy.reporting.markdown import to_markdown

VIEWS = ("report.json", "report.md", "report.csv", "report.html")


def read_report(path: Path) -> Report:
    """The report in a JSON file, or in the directory that holds a ``report.json``.

    Raises:
        UserError: It cannot be read, is no report, or was written by a newer version.
    """
    if path.is_dir():
        path = path / VIEWS[0]
    try:
        plain = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the report '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the report '{path}' is not valid JSON: {error}") from error
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or "rows" not in plain:
        raise UserError(f"'{path}' is not a report of mscsa-deploy")
    if schema > SCHEMA:
        raise UserError(
            f"the report '{path}' has schema {schema}, this version reads up to {SCHEMA}",
            hint="pip install --upgrade mscsa-deploy",
        )
    return convert(plain, Report, source=str(path))


def write_report(report: Report, directory: Path) -> None:
    """Write ``report.json`` and its Markdown, CSV and HTML views into `directory`.

    Args:
        report: Its pictures and sample files are paths below `directory`.
        directory: Exists; pictures and samples are read from it.
    """
    from mscsa_deploy.reporting.html import to_html

    directory.joinpath("report.json").write_bytes(to_json(report))
    directory.joinpath("report.md").write_text(to_markdown(report), encoding="utf-8")
    directory.joinpath("report.csv").write_text(to_csv(report), encoding="utf-8", newline="")
    directory.joinpath("report.html").write_text(to_html(report, directory), encoding="utf-8")
